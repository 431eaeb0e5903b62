//! `cloudkv-node`: parses the configuration, starts logging, runs, and reports how it ended.
//!
//! Exit codes: 0 for a requested stop, 1 for a failure, 2 for wrong settings.

use std::future::Future;
use std::process::ExitCode;

use cloudkv_common::process::{FAILED, Failure, end, print, stop_on_signals};
use cloudkv_node::config::{CertsArgs, Command, Config, ConfigError, OperatorCall};
use cloudkv_node::{admin, assembly, certs, telemetry};
use tokio::runtime::Builder;

/// RocksDB and hyper allocate from many threads; jemalloc keeps that fast, and releases memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAME: &str = "cloudkv-node";

fn main() -> ExitCode {
    let outcome = match Config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run {
            config,
            names_region,
        }) => run(*config, names_region),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Admin(call)) => call_operator(&call),
        Ok(Command::Certs(args)) => make_certificates(&args),
        Err(error) => return end(NAME, &error, ConfigError::EXIT_CODE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(NAME, error.as_ref(), FAILED),
    }
}

fn run(config: Config, names_region: bool) -> Result<(), Failure> {
    assembly::create_private_files();
    telemetry::logs::init(&config.log_level, config.log_format)?;
    let threads = config.main_threads();
    block_on(threads, async {
        let stop = stop_on_signals()?;
        Ok(assembly::run(config, names_region, stop).await?)
    })
}

fn call_operator(call: &OperatorCall) -> Result<(), Failure> {
    block_on(1, async {
        Ok(admin::execute(call, &mut std::io::stdout()).await?)
    })
}

fn make_certificates(args: &CertsArgs) -> Result<(), Failure> {
    print(&certs::make(args)?)
}

fn block_on<T>(
    threads: usize,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut builder = Builder::new_multi_thread();
    let builder = builder
        .worker_threads(threads)
        .thread_name("main")
        .enable_all();
    builder.build()?.block_on(future)
}
