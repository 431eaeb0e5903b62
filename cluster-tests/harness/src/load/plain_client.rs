//! A plain HTTP client: it keeps its connection, tries another node when one closed it, refused it
//! or is starting, and treats every other response but a success as an error.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::node_connection::{ExchangeOutcome, NodeConnection};
use crate::{HttpResponse, RawRequest};

/// Longer than any response may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for which a client tries nodes that refuse it.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Reason why a plain client's request failed.
#[derive(Debug)]
pub enum PlainError {
    /// Another response than a success.
    Answered(HttpResponse),
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
            Self::Refused => write!(f, "refused for {RETRY_TIMEOUT:?}"),
        }
    }
}

impl std::error::Error for PlainError {}

/// Result of a plain client's request.
pub type PlainResult = Result<HttpResponse, PlainError>;

/// A client of several nodes.
#[derive(Debug)]
pub struct PlainClient {
    connections: Vec<NodeConnection>,
    current: usize,
    /// Number of times that a request was sent again after a connection was closed or refused.
    pub retries: u64,
}

impl PlainClient {
    /// Creates a client that begins with the node at `first`.
    pub fn new(nodes: &[SocketAddr], first: usize) -> Self {
        Self {
            connections: nodes
                .iter()
                .map(|node| NodeConnection::new(*node, RESPONSE_TIMEOUT))
                .collect(),
            current: first % nodes.len(),
            retries: 0,
        }
    }

    /// Sends a request that may be repeated, until a response arrives.
    ///
    /// # Errors
    /// Returns what arrived in place of a 200.
    pub async fn send(&mut self, request: &RawRequest) -> PlainResult {
        let started = Instant::now();
        loop {
            match self.connections[self.current].exchange(request).await {
                ExchangeOutcome::Response(response) if response.status == 200 => {
                    return Ok(response);
                }
                // Nothing was done, and another node may serve.
                ExchangeOutcome::Response(response) if response.is_of_starting_node() => {}
                ExchangeOutcome::Response(response) => return Err(PlainError::Answered(response)),
                ExchangeOutcome::Lost => return Err(PlainError::Lost),
                ExchangeOutcome::Closed | ExchangeOutcome::NotSent => {}
            }
            if started.elapsed() > RETRY_TIMEOUT {
                return Err(PlainError::Refused);
            }
            self.retries += 1;
            self.current = (self.current + 1) % self.connections.len();
            if self.retries.is_multiple_of(self.connections.len() as u64) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
