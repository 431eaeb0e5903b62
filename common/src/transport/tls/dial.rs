//! Connections to nodes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use super::diagnosis;
use super::peer::{CertificateHolder, PeerIdentity};
use super::preamble::{self, ConnectionPurpose};
use super::reload::Tls;
use super::stream::PeerStream;
use crate::hosts::host_of;

/// Text of an error that says nothing beside the error that caused it.
const NO_REASON: &str = "operation was canceled";

/// Error of connecting to a node.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Address that isn't `host:port`.
    #[error("connect to `{0}`: this is not HOST:PORT")]
    InvalidAddress(String),
    /// Address at which nothing answers.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Address of the attempt.
        address: String,
        /// Error of the system; if the host has several addresses, those of all together.
        #[source]
        source: io::Error,
    },
    /// Other end that isn't the node that was dialed, or whose settings don't match.
    #[error("connect to {address}: the program there and this one don't match: {reason}")]
    WrongPeer {
        /// Address of the attempt.
        address: String,
        /// Reason why it isn't that node.
        reason: String,
    },
}

/// Dialer of nodes by the addresses that they advertise. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    overrides: Arc<HashMap<String, String>>,
    tls: Option<Arc<Tls>>,
    purpose: Option<ConnectionPurpose>,
}

impl Dialer {
    /// Creates a dialer that connects to the addresses of `overrides` in place of their keys, and
    /// with `tls`, if given: the node that answers must still be the one of the address that was
    /// dialed.
    pub fn new(overrides: HashMap<String, String>, tls: Option<Arc<Tls>>) -> Self {
        Self {
            overrides: Arc::new(overrides),
            tls,
            purpose: None,
        }
    }

    /// Returns this dialer for connections that Raft's own threads serve.
    pub fn for_raft(&self) -> Self {
        Self {
            purpose: Some(ConnectionPurpose::Raft),
            ..self.clone()
        }
    }

    /// Returns this dialer for connections over which a node forwards users' requests.
    pub fn for_forwarded(&self) -> Self {
        Self {
            purpose: Some(ConnectionPurpose::Forwarded),
            ..self.clone()
        }
    }

    /// Returns this dialer for connections that carry frames of users' requests, and no gRPC.
    pub fn for_users(&self) -> Self {
        Self {
            purpose: Some(ConnectionPurpose::Users),
            ..self.clone()
        }
    }

    /// Returns the certificates in use, if there are any.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Connects to the node that advertises `address`, `host:port`.
    ///
    /// # Errors
    /// Fails if nothing answers there, or not that node.
    pub async fn connect(&self, address: &str) -> Result<PeerStream, DialError> {
        let to = self.overrides.get(address).map_or(address, String::as_str);
        let mut tcp = connect_tcp(to).await?;
        if let Some(purpose) = self.purpose {
            let written = preamble::write(&mut tcp, purpose).await;
            written.map_err(|source| connect_error(to, source))?;
        }
        match &self.tls {
            Some(tls) => handshake(tls.connector(), tls, tcp, address).await,
            None => Ok(PeerStream::plain(tcp)),
        }
    }

    /// Diagnoses an error of a call to the node that advertises `address`: the program that answers
    /// there may be no node, or a node that asks for certificates. Then the result says what to do,
    /// and is `Unauthenticated`, since settings don't match. Otherwise it is `status`, in words.
    pub async fn diagnose(&self, address: &str, status: Status) -> Status {
        if diagnosis::is_plain_http(&status) {
            return wrong_peer(address, diagnosis::NOT_RPC);
        }
        // With certificates the handshake has failed with the reason.
        if self.tls.is_some()
            || !matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            )
        {
            return in_words(status);
        }
        let to = self.overrides.get(address).map_or(address, String::as_str);
        match diagnosis::probe(to).await {
            Some(reason) => wrong_peer(address, reason),
            None => in_words(status),
        }
    }

    /// Connects to `http`, the public port of the node that advertises `address`: with
    /// certificates, that node must answer, by the name of `address`.
    ///
    /// # Errors
    /// Fails if nothing answers there, or not that node.
    pub async fn connect_http(&self, http: &str, address: &str) -> Result<PeerStream, DialError> {
        let tcp = connect_tcp(http).await?;
        match &self.tls {
            Some(tls) => handshake(tls.http_connector(), tls, tcp, address).await,
            None => Ok(PeerStream::plain(tcp)),
        }
    }

    /// Connects a gRPC channel to the node that advertises `address`, with the bounds that
    /// `configure` sets.
    ///
    /// # Errors
    /// `Unauthenticated` if another program answers, `Unavailable` if none does.
    pub async fn channel(
        &self,
        address: &str,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|_| {
            let error = DialError::InvalidAddress(address.to_owned());
            Status::invalid_argument(error.to_string())
        })?;
        let (dialer, address) = (self.clone(), address.to_owned());
        let connector = service_fn(move |_| {
            let (dialer, address) = (dialer.clone(), address.clone());
            async move { dialer.connect(&address).await.map(TokioIo::new) }
        });
        let channel = configure(endpoint).connect_with_connector(connector).await;
        channel.map_err(|error| connect_status(&error))
    }
}

async fn connect_tcp(to: &str) -> Result<TcpStream, DialError> {
    let found = lookup_host(to).await;
    let addresses: Vec<SocketAddr> = found.map_err(|source| connect_error(to, source))?.collect();
    let connected = connect_first(&addresses).await;
    connected.map_err(|source| connect_error(to, source))
}

/// Connects to the first of a host's addresses at which something listens.
async fn connect_first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failures = Vec::new();
    for address in addresses {
        let connected = TcpStream::connect(*address).await.and_then(|tcp| {
            tcp.set_nodelay(true)?;
            Ok(tcp)
        });
        match connected {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failures.push((*address, error)),
        }
    }
    Err(diagnosis::connect_failure(failures))
}

fn connect_error(to: &str, source: io::Error) -> DialError {
    DialError::Connect {
        address: to.to_owned(),
        source,
    }
}

fn wrong_peer(address: &str, reason: &str) -> Status {
    let (address, reason) = (address.to_owned(), reason.to_owned());
    Status::unauthenticated(DialError::WrongPeer { address, reason }.to_string())
}

/// Returns a status whose text says in words that a connection was lost, if it was.
fn in_words(status: Status) -> Status {
    let text = diagnosis::in_words(status.message());
    if text == status.message() {
        return status;
    }
    Status::new(status.code(), text)
}

async fn handshake(
    connector: TlsConnector,
    tls: &Tls,
    tcp: TcpStream,
    address: &str,
) -> Result<PeerStream, DialError> {
    let wrong_peer = |reason: String| DialError::WrongPeer {
        address: address.to_owned(),
        reason,
    };
    let host = host_of(address).ok_or_else(|| DialError::InvalidAddress(address.to_owned()))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| DialError::InvalidAddress(address.to_owned()))?;
    let connected = connector.connect(name, tcp).await;
    let stream = connected
        .map_err(|error| wrong_peer(diagnosis::handshake_failure(&error, host, &tls.ca_path())))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    // The handshake has verified that it may serve and names the host; this refuses wildcards.
    let holder = CertificateHolder::from_chain(chain)
        .map_err(|reason| wrong_peer(format!("its certificate {reason}")))?;
    Ok(PeerStream::encrypted(
        TlsStream::Client(stream),
        PeerIdentity::Certified(holder),
    ))
}

/// Converts a transport error, whose sources alone say what is wrong.
fn connect_status(error: &tonic::transport::Error) -> Status {
    let mut code = Code::Unavailable;
    let mut text = String::from("connect");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(DialError::WrongPeer { .. }) = cause.downcast_ref() {
            code = Code::Unauthenticated;
        }
        let message = cause.to_string();
        if message != NO_REASON && !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = cause.source();
    }
    // A `DialError` begins with the failed action itself.
    let text = match text.strip_prefix("connect: ") {
        Some(rest) if rest.starts_with("connect to ") => rest.to_owned(),
        _ => text,
    };
    Status::new(code, text)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// Reserves a port, which refuses connections while the socket is kept.
    fn refusing_port() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn all_addresses_that_refuse_are_told_with_one_reason() {
        let (_first, first) = refusing_port();
        let (_second, second) = refusing_port();
        let error = connect_first(&[first, second]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let text = connect_error("node1:7070", error).to_string();
        let begin = "connect to node1:7070: Connection refused";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains(&first.to_string()), "{text}");
        assert!(text.contains(&second.to_string()), "{text}");
        assert_eq!(text.matches("refused").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn the_failed_action_is_told_once() {
        let (_refusing, refusing) = refusing_port();
        let address = refusing.to_string();
        let dialer = Dialer::default();
        let channel = dialer.channel(&address, |endpoint| endpoint).await;
        let error = channel.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        let begin = format!("connect to {address}: Connection refused");
        assert!(error.message().starts_with(&begin), "{}", error.message());
    }

    #[tokio::test]
    async fn the_first_address_that_listens_is_used() {
        let (_refusing, refusing) = refusing_port();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = connect_first(&[refusing, address]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), address);
    }
}
