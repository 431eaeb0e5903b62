//! A plain HTTP client: it keeps its connection, tries another node when one closed or refused
//! it, and takes everything but a success for an error.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::line::{Line, Reply};
use crate::harness::{Answer, RawRequest};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client goes on trying nodes that refuse it.
const TRIES_FOR: Duration = Duration::from_secs(20);

/// Why a plain client's request wasn't answered as it must be.
#[derive(Debug)]
pub enum PlainError {
    /// Another answer came.
    Answered(Answer),
    /// It was sent, and no whole answer came.
    Lost,
    /// Nobody took it.
    Refused,
}

impl fmt::Display for PlainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "{answer:?}"),
            Self::Lost => f.write_str("no whole answer"),
            Self::Refused => write!(f, "refused for {TRIES_FOR:?}"),
        }
    }
}

impl std::error::Error for PlainError {}

/// What a plain client's request came to.
pub type PlainResult = Result<Answer, PlainError>;

/// A client of several nodes.
#[derive(Debug)]
pub struct Plain {
    lines: Vec<Line>,
    at: usize,
    /// How often a connection was closed or refused, and the request sent again.
    pub retried: u64,
}

impl Plain {
    /// A client that begins with the node at `first`.
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

    /// Sends a request that may be repeated, until it is answered.
    ///
    /// # Errors
    /// What came in place of a 200.
    pub async fn send(&mut self, request: &RawRequest) -> PlainResult {
        let started = Instant::now();
        loop {
            match self.lines[self.at].exchange(request).await {
                Reply::Answer(answer) if answer.status == 200 => return Ok(answer),
                Reply::Answer(answer) => return Err(PlainError::Answered(answer)),
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
