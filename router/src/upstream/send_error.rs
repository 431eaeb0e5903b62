//! Outcome of a request without a response: whether it may have been executed.

/// Outcome of a request without a response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No byte of the request was sent: the node is unreachable.
    #[error("not sent: {0}")]
    NotSent(String),
    /// No byte of the request was sent: the connections to the node are at their limit.
    #[error("not sent: too many connections to the node")]
    Busy,
    /// The request wasn't read completely, and so wasn't executed: the node closed the connection.
    #[error("not read: {0}")]
    NotRead(String),
    /// The outcome is unknown: the connection was lost.
    #[error("no response: {0}")]
    Lost(String),
    /// The outcome is unknown: there was no response in time.
    #[error("no response in time")]
    TimedOut,
}
