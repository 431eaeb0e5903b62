//! A client's connection to one node, which distinguishes unsent requests from unknown outcomes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::{HttpResponse, RawConnection, RawOutcome, RawRequest};

/// Time for a connection to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Outcome of a request.
#[derive(Debug)]
pub enum ExchangeOutcome {
    /// A response arrived.
    Response(HttpResponse),
    /// The request was never sent.
    NotSent,
    /// The request was sent, and the connection was closed before the first byte of a response.
    Closed,
    /// The request was sent, and no complete response arrived.
    Lost,
}

/// A connection that is opened on demand, and again after it broke.
#[derive(Debug)]
pub struct NodeConnection {
    address: SocketAddr,
    response_timeout: Duration,
    connection: Option<RawConnection>,
}

impl NodeConnection {
    /// Creates a connection to `address`; a response must arrive within `response_timeout`.
    pub fn new(address: SocketAddr, response_timeout: Duration) -> Self {
        Self {
            address,
            response_timeout,
            connection: None,
        }
    }

    /// Sends a request and waits for its response.
    pub async fn exchange(&mut self, request: &RawRequest) -> ExchangeOutcome {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(CONNECT_TIMEOUT, RawConnection::try_open(self.address)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => return ExchangeOutcome::NotSent,
            },
        };
        match timeout(self.response_timeout, connection.send(request)).await {
            Ok(RawOutcome::Response(response)) => {
                if response.find_header("connection") != Some("close") {
                    self.connection = Some(connection);
                }
                ExchangeOutcome::Response(response)
            }
            Ok(RawOutcome::Closed) => ExchangeOutcome::Closed,
            Ok(RawOutcome::Broken(_)) | Err(_) => ExchangeOutcome::Lost,
        }
    }
}
