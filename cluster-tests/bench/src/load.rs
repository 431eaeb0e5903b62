//! `load`: one run of the load generator in a process of its own.

use crate::engine::{self, KeyOrder, LoadResult, LoadSpec};
use crate::workload::{Dialect, Operation};
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;

/// Options of `load`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Address of the server.
    #[arg(long)]
    pub addr: SocketAddr,
    /// Other addresses of the same service: connections are spread over all; may be repeated.
    #[arg(long)]
    pub also: Vec<SocketAddr>,
    /// API of the server.
    #[arg(long, value_enum, default_value = "paths")]
    pub dialect: Dialect,
    /// Request to send.
    #[arg(long, value_enum, default_value = "get")]
    pub operation: Operation,
    /// Path up to the key, or of batches.
    #[arg(long)]
    pub path_prefix: String,
    /// Path after the key.
    #[arg(long, default_value = "")]
    pub path_suffix: String,
    /// Keys are `k` and a number of so many digits.
    #[arg(long, default_value_t = 7)]
    pub digits: usize,
    /// Number of keys, or of batches; random ones of them are requested.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Request `--keys` keys once each, this far apart, instead of random ones.
    #[arg(long)]
    pub each: Option<u64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
    /// Write values of letters, as batches do, instead of random bytes.
    #[arg(long)]
    pub text: bool,
    /// Puts in a batch.
    #[arg(long, default_value_t = 100)]
    pub batch_size: usize,
    /// Seed of all values: written by PUT, required by GET with `--verify`.
    #[arg(long)]
    pub value_seed: Option<u64>,
    /// Verify the bytes of values.
    #[arg(long)]
    pub verify: bool,
    /// Number of connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Requests in flight on each connection (HTTP/1.1 pipelining).
    #[arg(long, default_value_t = 1)]
    pub depth: usize,
    /// Requests per second, all connections together, instead of as many as are answered.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Number of client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Seconds of measurement (with `--each`: maximum).
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Seconds of warm-up before the measurement.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Process whose processor time is measured as well; may be repeated.
    #[arg(long)]
    pub watch: Vec<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Default options for a server.
    pub(crate) fn new(addr: SocketAddr, operation: Operation, path_prefix: &str) -> Self {
        Self {
            addr,
            also: Vec::new(),
            dialect: Dialect::Paths,
            operation,
            path_prefix: path_prefix.to_owned(),
            path_suffix: String::new(),
            digits: 7,
            keys: 10_000,
            each: None,
            value_size: 100,
            text: false,
            batch_size: 100,
            value_seed: None,
            verify: false,
            connections: 64,
            depth: 1,
            rate: None,
            threads: 1,
            seconds: 4.0,
            warmup: 1.0,
            watch: Vec::new(),
            json: true,
        }
    }

    /// Returns the command line with these options.
    pub(crate) fn to_command_line(&self) -> Vec<String> {
        let mut line = vec!["load".to_owned()];
        let mut add = |name: &str, value: String| line.push(format!("--{name}={value}"));
        add("addr", self.addr.to_string());
        add("operation", self.operation.method().to_lowercase());
        add("path-prefix", self.path_prefix.clone());
        add("path-suffix", self.path_suffix.clone());
        add("digits", self.digits.to_string());
        add("keys", self.keys.to_string());
        add("value-size", self.value_size.to_string());
        add("batch-size", self.batch_size.to_string());
        add("connections", self.connections.to_string());
        add("depth", self.depth.to_string());
        add("threads", self.threads.to_string());
        add("seconds", self.seconds.to_string());
        add("warmup", self.warmup.to_string());
        let dialect = match self.dialect {
            Dialect::Paths => "paths",
            Dialect::Etcd => "etcd",
            Dialect::Batches => "batches",
        };
        add("dialect", dialect.to_owned());
        self.also
            .iter()
            .for_each(|addr| add("also", addr.to_string()));
        self.each
            .iter()
            .for_each(|stride| add("each", stride.to_string()));
        self.value_seed
            .iter()
            .for_each(|seed| add("value-seed", seed.to_string()));
        self.watch
            .iter()
            .for_each(|pid| add("watch", pid.to_string()));
        if let Some(rate) = self.rate {
            line.push(format!("--rate={rate}"));
        }
        line.extend(self.text.then(|| "--text".to_owned()));
        line.extend(self.verify.then(|| "--verify".to_owned()));
        line.extend(self.json.then(|| "--json".to_owned()));
        line
    }

    fn validate(&self) -> Result<()> {
        let mut addrs = self.also.iter().chain([&self.addr]);
        ensure!(
            addrs.all(|addr| addr.ip().is_loopback()),
            "only servers on loopback may be loaded"
        );
        ensure!(
            (1..=10_000).contains(&self.connections),
            "--connections: 1 to 10000"
        );
        ensure!((1..=64).contains(&self.threads), "--threads: 1 to 64");
        ensure!((1..=1000).contains(&self.depth), "--depth: 1 to 1000");
        ensure!(
            (0.1..=86_400.0).contains(&self.seconds),
            "--seconds: 0.1 to 86400"
        );
        ensure!((0.0..=3600.0).contains(&self.warmup), "--warmup: 0 to 3600");
        ensure!(
            self.rate.is_none_or(|rate| (1.0..=1e7).contains(&rate)),
            "--rate: 1 to 10000000"
        );
        ensure!(self.keys > 0, "--keys: at least 1");
        ensure!(
            (1..=1000).contains(&self.batch_size),
            "--batch-size: 1 to 1000"
        );
        ensure!(
            self.dialect != Dialect::Batches || self.operation == Operation::Put,
            "--dialect batches: only with --operation put"
        );
        ensure!(
            !(self.text && self.verify),
            "--text: not with --verify, which is for random bytes"
        );
        Ok(())
    }

    fn to_spec(&self) -> Result<LoadSpec> {
        self.validate()?;
        let keys = match self.each {
            None => KeyOrder::Random { keys: self.keys },
            Some(stride) => KeyOrder::Each {
                count: self.keys,
                stride,
            },
        };
        let warmup = if self.each.is_some() {
            0.0
        } else {
            self.warmup
        };
        Ok(LoadSpec {
            addrs: [&[self.addr], self.also.as_slice()].concat(),
            dialect: self.dialect,
            operation: self.operation,
            path_prefix: self.path_prefix.clone(),
            path_suffix: self.path_suffix.clone(),
            digits: self.digits,
            value_size: self.value_size,
            text: self.text,
            batch_size: self.batch_size,
            keys,
            random_seed: random_seed(),
            value_seed: self.value_seed,
            verify: self.verify,
            connections: self.connections,
            depth: self.depth,
            rate: self.rate,
            threads: self.threads,
            warmup: Duration::from_secs_f64(warmup),
            measure: Duration::from_secs_f64(self.seconds),
            watch: self.watch.clone(),
            max_errors: 10_000,
            sent_times: None,
            print_progress: false,
        })
    }
}

/// Returns a different seed for every run.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8)
}

/// Runs the load and prints the results. Any failed request makes the process fail, after the
/// results are printed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let outcome = engine::run(&args.to_spec()?)?;
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(());
    }
    print(&outcome);
    let errors = outcome.errors;
    ensure!(errors.total() == 0, "{} ERRORS: {errors:?}", errors.total());
    Ok(())
}

fn print(outcome: &LoadResult) {
    let latency = outcome.latency_us;
    println!(
        "{:.0}/s ({} in {:.2} s)",
        outcome.per_second, outcome.requests, outcome.seconds
    );
    println!(
        "latency µs: p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
        latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    );
    println!(
        "processor µs a request: client {:.1}, server {:.1}",
        outcome.client_cpu_us, outcome.server_cpu_us
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(clap::Subcommand)]
    enum Command {
        Load(Args),
    }

    #[test]
    fn command_line_gives_the_same_options() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        let mut args = Args::new(addr, Operation::Put, "/kv/a/");
        args.each = Some(3);
        args.also = vec![addr];
        args.dialect = Dialect::Batches;
        args.batch_size = 7;
        args.text = true;
        args.value_seed = Some(4);
        args.verify = true;
        args.watch = vec![1, 2];
        let line = std::iter::once("bench".to_owned()).chain(args.to_command_line());
        let Command::Load(parsed) = CommandLine::parse_from(line).command;
        assert_eq!(format!("{parsed:?}"), format!("{args:?}"));
    }
}
