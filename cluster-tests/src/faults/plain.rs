//! A plain HTTP client: it keeps its connection, tries another node when one closed or refused it,
//! and treats every response but a success as an error.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::line::{Line, Reply};
use crate::harness::{Answer, RawRequest};

/// Longer than any response may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time for which a client tries nodes that refuse it.
const TRIES_FOR: Duration = Duration::from_secs(20);

/// Reason why a plain client's request failed.
#[derive(Debug)]
pub enum PlainError {
    /// Another response than a success.
    Answered(Answer),
    /// The request was sent, and no complete response arrived.
    Lost,
    /// No node accepted the request.
    Refused,
}

impl fmt::Display for PlainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(response) => write!(f, "{response:?}"),
            Self::Lost => f.write_str("no complete response"),
            Self::Refused => write!(f, "refused for {TRIES_FOR:?}"),
        }
    }
}

impl std::error::Error for PlainError {}

/// Result of a plain client's request.
pub type PlainResult = Result<Answer, PlainError>;

/// A client of several nodes.
#[derive(Debug)]
pub struct Plain {
    lines: Vec<Line>,
    at: usize,
    /// Number of times that a request was sent again after a connection was closed or refused.
    pub retried: u64,
}

impl Plain {
    /// Creates a client that begins with the node at `first`.
    pub fn new(nodes: &[SocketAddr], first: usize) -> Self {
        Self {
            lines: nodes
                .iter()
                .map(|node| Line::new(*node, PATIENCE))
                .collect(),
            at: first % nodes.len(),
            retried: 0,
        }
    }

    /// Sends a request that may be repeated, until a response arrives.
    ///
    /// # Errors
    /// Returns what arrived in place of a 200.
    pub async fn send(&mut self, request: &RawRequest) -> PlainResult {
        let started = Instant::now();
        loop {
            match self.lines[self.at].exchange(request).await {
                Reply::Answer(response) if response.status == 200 => return Ok(response),
                Reply::Answer(response) => return Err(PlainError::Answered(response)),
                Reply::Lost => return Err(PlainError::Lost),
                Reply::Closed | Reply::NotSent => {}
            }
            if started.elapsed() > TRIES_FOR {
                return Err(PlainError::Refused);
            }
            self.retried += 1;
            self.at = (self.at + 1) % self.lines.len();
            if self.retried.is_multiple_of(self.lines.len() as u64) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
