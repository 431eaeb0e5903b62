//! `cloudkv-router`: parses the command line, starts the log, runs the router, and reports the
//! outcome.
//!
//! Exit codes: 0 after a requested stop, 1 after a failure, 2 for invalid settings.

use std::process::ExitCode;

use cloudkv_common::process::{MainError, print, run_program, shutdown_signal};
use cloudkv_common::telemetry;
use cloudkv_router::config::{Command, Config};
use cloudkv_router::health::check_ready;
use cloudkv_router::run::run;
use tokio::runtime::Builder;

/// Global allocator: hyper allocates from all threads; jemalloc keeps that fast, and returns memory
/// to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = Config::load(std::env::args_os(), std::env::vars_os());
    run_program("cloudkv-router", command, |command| match command {
        Command::Run(config) => start(&config),
        Command::Print(text) => print(&text),
        Command::Health(admin) => block_on(async {
            check_ready(admin).await?;
            print("ready\n")
        }),
    })
}

/// Runs the router. The cluster is followed on this thread; users are served on others.
fn start(config: &Config) -> Result<(), MainError> {
    telemetry::logs::init(&config.log_level, config.log_format)?;
    block_on(async {
        let stop = shutdown_signal()?;
        Ok(run(config, stop).await?)
    })
}

fn block_on<T>(future: impl Future<Output = Result<T, MainError>>) -> Result<T, MainError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(future)
}
