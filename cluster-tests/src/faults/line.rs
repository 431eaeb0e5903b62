//! A client's connection to one node, for requests whose fate matters.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{Answer, Connection, Ending, RawRequest};

/// How long a connection may take to be there.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// It was answered.
    Answer(Answer),
    /// It was never sent.
    NotSent,
    /// It was sent, and the connection was closed before the first byte of an answer.
    Closed,
    /// It was sent, and no whole answer came.
    Lost,
}

/// A connection that is opened when it is needed, and again when it broke.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    patience: Duration,
    connection: Option<Connection>,
}

impl Line {
    /// A line to this port, whose answers may take as long as `patience`.
    pub fn new(address: SocketAddr, patience: Duration) -> Self {
        Self {
            address,
            patience,
            connection: None,
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn exchange(&mut self, request: &RawRequest) -> Reply {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(CONNECTS_WITHIN, Connection::try_open(self.address)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => return Reply::NotSent,
            },
        };
        match timeout(self.patience, connection.send(request)).await {
            Ok(Ending::Answer(answer)) => {
                if answer.find_header("connection") != Some("close") {
                    self.connection = Some(connection);
                }
                Reply::Answer(answer)
            }
            Ok(Ending::Closed) => Reply::Closed,
            Ok(Ending::Broken(_)) | Err(_) => Reply::Lost,
        }
    }
}
