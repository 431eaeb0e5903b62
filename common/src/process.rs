//! Helpers for the start and the end of all programs: signals, output, errors, exit codes.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Error with which a program ends.
pub type MainError = Box<dyn Error + Send + Sync>;

/// Exit code of a program that has failed.
const EXIT_FAILURE: u8 = 1;

/// Exit code of a program with invalid settings, the usual one for wrong usage.
pub const EXIT_USAGE: u8 = 2;

/// Failed call to the system.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct SystemError {
    action: &'static str,
    source: io::Error,
}

impl SystemError {
    /// Returns a function that adds the failed action to the system's error, for `map_err`.
    pub fn while_doing(action: &'static str) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self { action, source }
    }
}

/// Carries out the command that a program was started with. Prints an error, and returns the exit
/// code: [`EXIT_USAGE`] if the command is invalid.
pub fn run_program<C, E: Error + 'static>(
    name: &str,
    command: Result<C, E>,
    run: impl FnOnce(C) -> Result<(), MainError>,
) -> ExitCode {
    let outcome = match command {
        Ok(command) => run(command),
        Err(error) => return exit_with_error(name, &error, EXIT_USAGE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_with_error(name, error.as_ref(), EXIT_FAILURE),
    }
}

/// Returns a token that is cancelled at SIGTERM or SIGINT.
///
/// # Errors
/// Fails if the signal handlers can't be installed.
pub fn shutdown_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        stopped.cancel();
    });
    Ok(stop)
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), MainError> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Describes an error and its causes, which are separated by colons.
pub fn describe_error(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Prints an error and its causes to standard error, and returns `code` as the exit code.
fn exit_with_error(program: &str, error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let text = describe_error(error);
    // The parent process may have closed standard error.
    let _ = writeln!(io::stderr(), "{program}: {text}");
    ExitCode::from(code)
}
