//! A client's connection to one node, which distinguishes unsent requests from unknown outcomes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{Answer, Connection, Ending, RawRequest};

/// Time for a connection to be established.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// Outcome of a request.
#[derive(Debug)]
pub enum Reply {
    /// A response arrived.
    Answer(Answer),
    /// The request was never sent.
    NotSent,
    /// The request was sent, and the connection was closed before the first byte of a response.
    Closed,
    /// The request was sent, and no complete response arrived.
    Lost,
}

/// A connection that is opened on demand, and again after it broke.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    patience: Duration,
    connection: Option<Connection>,
}

impl Line {
    /// Creates a connection to `address`; a response must arrive within `patience`.
    pub fn new(address: SocketAddr, patience: Duration) -> Self {
        Self {
            address,
            patience,
            connection: None,
        }
    }

    /// Sends a request and waits for its response.
    pub async fn exchange(&mut self, request: &RawRequest) -> Reply {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(CONNECTS_WITHIN, Connection::try_open(self.address)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => return Reply::NotSent,
            },
        };
        match timeout(self.patience, connection.send(request)).await {
            Ok(Ending::Answer(response)) => {
                if response.find_header("connection") != Some("close") {
                    self.connection = Some(connection);
                }
                Reply::Answer(response)
            }
            Ok(Ending::Closed) => Reply::Closed,
            Ok(Ending::Broken(_)) | Err(_) => Reply::Lost,
        }
    }
}
