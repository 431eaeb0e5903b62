//! `cloudkv-router`: parses the command line, starts the log, runs the router, and reports the
//! outcome.
//!
//! Exit codes: 0 after a requested stop, 1 after a failure, 2 for invalid settings.

use std::process::ExitCode;

use cloudkv_common::process::{EXIT_FAILURE, MainError, exit_with_error, print, shutdown_signal};
use cloudkv_common::telemetry;
use cloudkv_router::config::{Command, Config, ConfigError};
use cloudkv_router::health::check_ready;
use cloudkv_router::run::run;
use tokio::runtime::Builder;

/// Global allocator: hyper allocates from all threads; jemalloc keeps that fast, and returns memory
/// to the system.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAME: &str = "cloudkv-router";

fn main() -> ExitCode {
    let outcome = match Config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run(config)) => start(&config),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Health(admin)) => check_ready(admin)
            .map_err(MainError::from)
            .and_then(|()| print("ready\n")),
        Err(error) => return exit_with_error(NAME, &error, ConfigError::EXIT_CODE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_with_error(NAME, error.as_ref(), EXIT_FAILURE),
    }
}

/// Runs the router. The cluster is followed on this thread; users are served on others.
fn start(config: &Config) -> Result<(), MainError> {
    telemetry::logs::init(&config.log_level, config.log_format)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = shutdown_signal()?;
        Ok(run(config, stop).await?)
    })
}
