//! Diagnosis of why no node answers at an address: settings that don't match are recognized by the
//! bytes that come back, so that the error can say what to set.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

/// Maximum time for each probe. Any server answers at once.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// First bytes of an HTTP/2 client: the preface, and an empty SETTINGS frame.
const HTTP2_HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Request of HTTP/1.1.
const HTTP1_HELLO: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// First byte of the alert with which TLS answers plaintext.
const TLS_ALERT: u8 = 0x15;
/// First byte of HTTP/2: of the length of a SETTINGS frame, which is short.
const HTTP2_FRAME: u8 = 0;
/// Beginnings of the errors by which tonic and hyper say that a connection was lost.
const LOST_CONNECTION: [&str; 6] = [
    "transport error",
    "h2 protocol error",
    "error reading a body from connection",
    "connection error",
    "channel closed",
    "operation was canceled",
];

pub(super) const NO_CERTIFICATES_HERE: &str = "it asks for certificates, and this program has \
     none: set rpc_cert, rpc_key and rpc_ca as the others do";
pub(super) const NO_CERTIFICATES_THERE: &str = "it speaks without certificates, and this program \
     has some: give rpc_cert, rpc_key and rpc_ca to all nodes and routers of the cluster, or to \
     none; or this isn't the port of its `rpc`";
pub(super) const NOT_RPC: &str = "it answers by HTTP as a node's `http` or `admin` does: give the \
     address of its `rpc` (7070 unless it is set)";
const NOT_A_NODE: &str = "it answers, but not as a node's rpc port does: give the address of its \
     `rpc` (7070 unless it is set)";

/// Returns whether a gRPC error shows that a plain HTTP server answered: by an HTTP status other
/// than gRPC's 200, or a body that is no message.
pub(super) fn is_plain_http(status: &tonic::Status) -> bool {
    let signs = ["mapped from HTTP status code", "response with status: 4"];
    signs.iter().any(|sign| status.message().contains(sign))
}

/// Returns the text of a call's error, in words where it only says that a connection was lost.
pub(crate) fn in_words(error: &str) -> &str {
    if LOST_CONNECTION.iter().any(|begin| error.starts_with(begin)) {
        return "the connection was lost";
    }
    error
}

/// Probes an address that was reached without certificates, and returns what is wrong, if known.
pub(super) async fn probe(address: &str) -> Option<&'static str> {
    for hello in [HTTP2_HELLO, HTTP1_HELLO] {
        let first = tokio::time::timeout(PROBE_TIMEOUT, first_byte(address, hello));
        match first.await.ok()? {
            Ok(TLS_ALERT) => return Some(NO_CERTIFICATES_HERE),
            Ok(b'H') => return Some(NOT_RPC),
            Ok(HTTP2_FRAME) => return None,
            Ok(_) => return Some(NOT_A_NODE),
            // A server that only speaks HTTP/1 may close the connection without a response.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(_) => return None,
        }
    }
    None
}

async fn first_byte(address: &str, hello: &[u8]) -> io::Result<u8> {
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(hello).await?;
    tcp.read_u8().await
}

/// Returns the error of a host that can't be connected to at any of its addresses. If there are
/// several, it names each, with the reason: addresses with the same reason together.
pub(super) fn connect_failure(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    // Each lookup may return them in another order, which would look like another reason.
    failures.sort_by_key(|(address, _)| *address);
    failures.dedup_by_key(|(address, _)| *address);
    let Some((last_address, last)) = failures.pop() else {
        return io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    };
    if failures.is_empty() {
        return last;
    }
    let kind = last.kind();
    failures.push((last_address, last));
    let mut by_reason: Vec<(String, Vec<String>)> = Vec::new();
    for (address, error) in failures {
        let (address, reason) = (address.to_string(), error.to_string());
        match by_reason.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, addresses)) => addresses.push(address),
            None => by_reason.push((reason, vec![address])),
        }
    }
    let reasons: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, addresses)| format!("{reason} at {}", addresses.join(", ")))
        .collect();
    io::Error::new(kind, reasons.join("; "))
}

/// Returns why a handshake with the node at a host failed, and what to do.
pub(super) fn handshake_failure(error: &io::Error, host: &str, ca: &str) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let advice = cause.and_then(|cause: &rustls::Error| advice(cause, host, ca));
    advice.unwrap_or_else(|| error.to_string())
}

fn advice(error: &rustls::Error, host: &str, ca: &str) -> Option<String> {
    use rustls::Error as E;
    let advice = match error {
        E::InvalidCertificate(error) => certificate_advice(error, host, ca)?,
        E::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => format!(
            "it says that this program's certificate was signed by another CA: give all nodes and \
             routers certificates of one CA, that of {ca}"
        ),
        E::AlertReceived(AlertDescription::NoApplicationProtocol) => NOT_RPC.to_owned(),
        // The response isn't TLS at all.
        E::InvalidMessage(_) => NO_CERTIFICATES_THERE.to_owned(),
        _ => return None,
    };
    Some(advice)
}

/// Returns why the handshake of a connection that came in has failed.
pub(super) fn refusal_reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let reason = cause.and_then(|cause: &rustls::Error| match cause {
        // The latter if both CAs have the same name, as those of `cloudkv-node certs` have.
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::DecryptError,
        ) => Some("the other end doesn't trust this node's certificate: it has another CA"),
        rustls::Error::AlertReceived(AlertDescription::BadCertificate) => {
            Some("the other end refuses this node's certificate: it names another host")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Some("the certificate of the other end was signed by another CA"),
        rustls::Error::NoCertificatesPresented => Some("the other end shows no certificate"),
        rustls::Error::InvalidMessage(_) => Some("the other end doesn't speak TLS"),
        _ => None,
    });
    reason.map_or_else(|| error.to_string(), str::to_owned)
}

fn certificate_advice(error: &CertificateError, host: &str, ca: &str) -> Option<String> {
    use CertificateError as E;
    match error {
        // The latter if both CAs have the same name, as those of `cloudkv-node certs` have.
        E::UnknownIssuer | E::BadSignature => Some(format!(
            "its certificate was signed by another CA: give all nodes and routers certificates of \
             one CA, that of {ca}"
        )),
        E::NotValidForName => Some(wrong_name(host, "")),
        E::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
            Some(wrong_name(host, &names.join(", ")))
        }
        E::Expired | E::ExpiredContext { .. } => Some(
            "its certificate has expired, or this machine's clock is wrong: renew it with \
             `cloudkv-node certs node --renew`"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Extracts the name of `DnsName("name")` or `IpAddress(address)`, as rustls formats them.
pub(super) fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

fn wrong_name(host: &str, names: &str) -> String {
    let names = if names.is_empty() {
        String::new()
    } else {
        format!(" ({names})")
    };
    format!(
        "its certificate has another name{names}, and it was called at {host}: make one with \
         `cloudkv-node certs node {host}`, or call it by a name that it has"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_host_is_told_with_its_reason() {
        let failure = |address: &str, reason: &str| {
            let address: SocketAddr = address.parse().unwrap();
            (address, io::Error::other(reason))
        };
        let only = connect_failure(vec![failure("10.0.0.1:7070", "refused")]);
        assert_eq!(only.to_string(), "refused");
        let mut failures = vec![
            failure("[::1]:7070", "refused"),
            failure("10.0.0.1:7070", "no route"),
            failure("10.0.0.2:7070", "refused"),
        ];
        let text = "no route at 10.0.0.1:7070; refused at 10.0.0.2:7070, [::1]:7070";
        assert_eq!(connect_failure(failures).to_string(), text);
        // In another order, and with an address twice, it is the same text.
        failures = vec![
            failure("10.0.0.2:7070", "refused"),
            failure("[::1]:7070", "refused"),
            failure("10.0.0.1:7070", "no route"),
            failure("10.0.0.2:7070", "refused"),
        ];
        assert_eq!(connect_failure(failures).to_string(), text);
        let none = connect_failure(vec![]);
        assert_eq!(none.to_string(), "the host has no address");
    }

    #[test]
    fn a_lost_connection_is_told_in_words() {
        for opaque in [
            "transport error",
            "h2 protocol error: http2 error",
            "channel closed",
        ] {
            assert_eq!(in_words(opaque), "the connection was lost");
        }
        assert_eq!(in_words("no answer in time"), "no answer in time");
    }

    #[tokio::test]
    async fn a_program_that_is_no_node_is_recognized() {
        for (answer, reason) in [
            (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], Some(NOT_A_NODE)),
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], Some(NOT_RPC)),
            (&b"\0\0\0\x04\0\0\0\0\0"[..], None),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                let (mut tcp, _) = listener.accept().await.unwrap();
                tcp.write_all(answer).await.unwrap();
                // Until the probe closes: unread bytes would reset the connection.
                let _ = tcp.read_to_end(&mut Vec::new()).await;
            });
            assert_eq!(probe(&address).await, reason);
        }
    }

    #[test]
    fn alerts_of_the_other_end_are_translated() {
        let reason = |error| refusal_reason(&io::Error::new(io::ErrorKind::InvalidData, error));
        let alert = rustls::Error::AlertReceived;
        for trust in [AlertDescription::DecryptError, AlertDescription::UnknownCA] {
            let text = reason(alert(trust));
            assert!(
                text.contains("doesn't trust this node's certificate"),
                "{text}"
            );
        }
        let foreign = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(reason(foreign).contains("signed by another CA"));
        let other = reason(alert(AlertDescription::InternalError));
        assert!(other.contains("InternalError"), "{other}");
    }
}
