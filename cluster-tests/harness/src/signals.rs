//! Ends the work of a program at a signal.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Runs `work` until SIGINT or SIGTERM. A signal drops `work`: its destructors stop the processes
/// that it has started, which would outlive a program that is killed by the signal.
///
/// # Errors
/// Fails if a signal arrives first, or if signals can't be handled.
pub async fn run_until_signal<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = work => Ok(result),
        _ = interrupt.recv() => Err(io::Error::other("interrupted")),
        _ = terminate.recv() => Err(io::Error::other("terminated")),
    }
}
