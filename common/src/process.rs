//! What the `main` of all programs does: signals, output, exit codes.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a program ends.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What a program ends with that has failed.
pub const FAILED: u8 = 1;

/// Cancelled at SIGTERM or SIGINT.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
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

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Says why, cause by cause, and ends with `code`.
pub fn end(program: &str, error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    // Whoever started the program may have closed its standard error.
    let _ = writeln!(io::stderr(), "{program}: {text}");
    ExitCode::from(code)
}
