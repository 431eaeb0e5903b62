//! `cloudkv-node`: parses the configuration, starts logging, runs, and reports how it ended.
//!
//! Exit codes: 0 for a requested stop, 1 for a failure, 2 for wrong settings.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use cloudkv_common::process::{MainError, print, run_program, shutdown_signal};
use cloudkv_node::config::{
    AdminCall, CertsArgs, Command, Config, ExportDirectoryArgs, RestoreArgs,
};
use cloudkv_node::{admin, app, certs, telemetry};
use tokio::runtime::Builder;

/// RocksDB and hyper allocate from many threads; jemalloc keeps that fast, and releases memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = Config::load(std::env::args_os(), std::env::vars_os());
    run_program("cloudkv-node", command, |command| match command {
        Command::Run {
            config,
            is_region_explicit,
        } => run(*config, is_region_explicit),
        Command::Print(text) => print(&text),
        Command::Admin(call) => run_admin_command(&call),
        Command::Certs(args) => make_certificates(&args),
        Command::Restore(args) => restore_backup(&args),
        Command::ExportDirectory(args) => export_directory(&args),
    })
}

fn run(config: Config, is_region_explicit: bool) -> Result<(), MainError> {
    app::restrict_umask();
    telemetry::logs::init(&config.log_level, config.log_format)?;
    let threads = config.main_threads();
    block_on(threads, async {
        let stop = shutdown_signal()?;
        match app::run(config, is_region_explicit, stop).await {
            Err(error) if error.is_requested_stop() => Ok(()),
            outcome => Ok(outcome?),
        }
    })
}

fn run_admin_command(call: &AdminCall) -> Result<(), MainError> {
    block_on(1, async {
        Ok(admin::execute(call, &mut std::io::stdout()).await?)
    })
}

fn restore_backup(args: &RestoreArgs) -> Result<(), MainError> {
    app::restrict_umask();
    block_on(2, async { Ok(app::restore(args, &mut print_line).await?) })
}

fn export_directory(args: &ExportDirectoryArgs) -> Result<(), MainError> {
    app::restrict_umask();
    block_on(2, async {
        Ok(app::export_directory(args, &mut print_line).await?)
    })
}

/// Prints a line of a report. That nobody reads it any more is no reason to end.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn make_certificates(args: &CertsArgs) -> Result<(), MainError> {
    print(&certs::run(args)?)
}

fn block_on<T>(
    threads: usize,
    future: impl Future<Output = Result<T, MainError>>,
) -> Result<T, MainError> {
    let mut builder = Builder::new_multi_thread();
    let builder = builder
        .worker_threads(threads)
        .thread_name("main")
        .enable_all();
    builder.build()?.block_on(future)
}
