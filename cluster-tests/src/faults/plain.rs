//! A plain HTTP client: it keeps its connection, tries another node when one closed or refused
//! it, and takes everything but a success for an error.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::line::{Line, Reply};
use crate::harness::{Answer, RawRequest};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client goes on trying nodes that refuse it.
const TRIES_FOR: Duration = Duration::from_secs(20);

/// What a plain client's request came to.
pub type PlainResult = Result<Answer, String>;

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
                Reply::Answer(answer) => return Err(format!("{answer:?}")),
                Reply::Lost => return Err("no whole answer".into()),
                Reply::Closed | Reply::NotSent => {}
            }
            if started.elapsed() > TRIES_FOR {
                return Err(format!("refused for {TRIES_FOR:?}"));
            }
            self.retried += 1;
            self.at = (self.at + 1) % self.lines.len();
            if self.retried.is_multiple_of(self.lines.len() as u64) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
