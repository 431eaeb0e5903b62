//! `load-keys`: writes many keys through the public API, pipelined.

use crate::engine::{self, KeyOrder, LoadResult, LoadSpec};
use crate::load::random_seed;
use crate::workload::{Dialect, Operation};
use crate::{process, servers};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;

/// Digits of the keys' numbers: `k%010d`.
pub(crate) const KEY_DIGITS: usize = 10;
/// Maximum number of failed writes; they are repeated until then.
const MAX_ERRORS: u64 = 1_000_000;
const LOAD_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// Options of `load-keys`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Public address of the node.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,
    /// Bucket; by default a new one.
    #[arg(long)]
    pub bucket: Option<String>,
    /// Number of keys.
    #[arg(long, default_value_t = 10_000_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
    /// Number of connections.
    #[arg(long, default_value_t = 256)]
    pub connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 16)]
    pub depth: usize,
    /// Number of client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Process whose processor time is measured as well.
    #[arg(long)]
    pub watch: Vec<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Loads the keys and prints the rate; fails unless every key was acknowledged.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.addr.ip().is_loopback(),
        "only servers on loopback may be loaded"
    );
    ensure!(
        (1..=10_u64.pow(KEY_DIGITS as u32)).contains(&args.keys),
        "--keys: 1 to 10^{KEY_DIGITS}"
    );
    ensure!(
        (1..=10_000).contains(&args.connections),
        "--connections: 1 to 10000"
    );
    ensure!((1..=1000).contains(&args.depth), "--depth: 1 to 1000");
    ensure!((1..=64).contains(&args.threads), "--threads: 1 to 64");
    let bucket = match &args.bucket {
        Some(bucket) => bucket.clone(),
        None => process::block_on_until_signal(servers::create_bucket(args.addr))?,
    };
    let outcome = engine::run(&spec(args, &bucket))?;
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print(&outcome, &bucket);
    }
    let (done, keys) = (outcome.requests, args.keys);
    ensure!(
        done == keys,
        "only {done} of {keys} keys were acknowledged: {:?}",
        outcome.errors
    );
    Ok(())
}

/// Loads the keys in a process of its own; fails unless every key was acknowledged.
pub(crate) async fn run_apart(args: &Args) -> Result<LoadResult> {
    let mut line = vec![
        "load-keys".to_owned(),
        format!("--addr={}", args.addr),
        format!("--keys={}", args.keys),
        format!("--value-size={}", args.value_size),
        format!("--connections={}", args.connections),
        format!("--depth={}", args.depth),
        format!("--threads={}", args.threads),
        "--json".to_owned(),
    ];
    line.extend(
        args.bucket
            .iter()
            .map(|bucket| format!("--bucket={bucket}")),
    );
    line.extend(args.watch.iter().map(|pid| format!("--watch={pid}")));
    let json = process::run_subcommand(&line, LOAD_TIMEOUT).await?;
    serde_json::from_str(&json).context("result of the loader")
}

fn print(outcome: &LoadResult, bucket: &str) {
    let LoadResult {
        requests,
        seconds,
        per_second,
        ..
    } = outcome;
    println!("{requests} keys in {seconds:.1} s: {per_second:.0}/s, bucket {bucket}");
    println!(
        "processor µs a key: client {:.1}, server {:.1}",
        outcome.client_cpu_us, outcome.server_cpu_us
    );
    let errors = &outcome.errors;
    if errors.total() > 0 {
        println!(
            "!!! {} attempts FAILED and were repeated: {errors:?}",
            errors.total()
        );
    }
}

fn spec(args: &Args, bucket: &str) -> LoadSpec {
    LoadSpec {
        addrs: vec![args.addr],
        dialect: Dialect::Paths,
        operation: Operation::Put,
        path_prefix: format!("/kv/{bucket}/"),
        path_suffix: String::new(),
        digits: KEY_DIGITS,
        value_size: args.value_size,
        text: false,
        batch_size: 1,
        keys: KeyOrder::Each {
            count: args.keys,
            stride: 1,
        },
        random_seed: random_seed(),
        value_seed: None,
        rate: None,
        verify: false,
        connections: args.connections,
        depth: args.depth,
        threads: args.threads,
        warmup: Duration::ZERO,
        measure: LOAD_TIMEOUT,
        watch: args.watch.clone(),
        max_errors: MAX_ERRORS,
        sent_times: None,
        print_progress: true,
    }
}
