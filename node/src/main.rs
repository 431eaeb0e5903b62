//! `cloudkv-node`: parses, logs, runs, and says how it ended.
//!
//! Exit codes: 0 stopped as told, 1 failed, 2 wrong settings.

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use cloudkv_node::config::{CertsArgs, Command, Config, OperatorCall};
use cloudkv_node::{admin, assembly, certs, telemetry};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// RocksDB and hyper allocate from many threads; jemalloc keeps that fast, and gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn Error + Send + Sync>;

const FAILED: u8 = 1;
const WRONG_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run(config)) => run(*config),
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Admin(call)) => call_operator(&call),
        Ok(Command::Certs(args)) => make_certificates(&args),
        Err(error) => return end(&error, WRONG_SETTINGS),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(error.as_ref(), FAILED),
    }
}

fn run(config: Config) -> Result<(), Failure> {
    telemetry::logs::init(&config.log_level, config.log_format)?;
    let threads = config.http_workers();
    block_on(threads, async {
        let stop = stop_on_signals()?;
        Ok(assembly::run(config, stop).await?)
    })
}

fn call_operator(call: &OperatorCall) -> Result<(), Failure> {
    let text = block_on(1, async { Ok(admin::execute(call).await?) })?;
    print(&text)
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
        .thread_name("http")
        .enable_all();
    builder.build()?.block_on(future)
}

/// Cancelled at SIGTERM or SIGINT.
fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopped.cancel();
    });
    Ok(stop)
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Says why, cause by cause, and ends with `code`.
fn end(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    // Whoever started the node may have closed its standard error.
    let _ = writeln!(io::stderr(), "cloudkv-node: {text}");
    ExitCode::from(code)
}
