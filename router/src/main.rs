//! `cloudkv-router`: parses, logs, runs, and says how it ended.
//!
//! Exit codes: 0 stopped as told, 1 failed, 2 wrong settings.

use std::process::ExitCode;

use cloudkv_common::process::{FAILED, Failure, end, print, stop_on_signals};
use cloudkv_common::telemetry;
use cloudkv_router::config::{Command, Config, ConfigError};
use cloudkv_router::health::ask;
use cloudkv_router::run::run;
use tokio::runtime::Builder;

/// hyper allocates from all threads; jemalloc keeps that fast, and gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAME: &str = "cloudkv-router";

fn main() -> ExitCode {
    let outcome = match Config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run(config)) => start(&config),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Health(admin)) => ask(admin)
            .map_err(Failure::from)
            .and_then(|()| print("ready\n")),
        Err(error) => return end(NAME, &error, ConfigError::EXIT_CODE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(NAME, error.as_ref(), FAILED),
    }
}

/// Follows the cluster on this thread; users are served on others.
fn start(config: &Config) -> Result<(), Failure> {
    telemetry::logs::init(&config.log_level, config.log_format)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_on_signals()?;
        Ok(run(config, stop).await?)
    })
}
