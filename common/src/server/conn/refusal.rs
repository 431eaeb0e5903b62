//! Response to a connection beyond the limits, before it is closed.
//!
//! A client of an event stream never comes back after a 503. So the head of the first request is
//! read before the response, as far as it comes soon. It decides on the form of the refusal only.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::event_stream;

/// Response to a client when there are too many connections.
const BUSY_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json; charset=utf-8\r\ncontent-length: 81\r\n\
    access-control-allow-origin: *\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"error\":\"unavailable\",\"message\":\"this port has too many connections: try again\"}";

/// The same to a client that asks for an event stream.
const BUSY_EVENT_STREAM: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: text/event-stream\r\ncontent-length: 49\r\n\
    cache-control: no-store\r\nx-accel-buffering: no\r\nx-content-type-options: nosniff\r\n\
    access-control-allow-origin: *\r\nconnection: close\r\n\r\n\
    : this port has too many connections\nretry: 2000\n";

/// Maximum time for the head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of bytes of the head that are read.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// Reads the head of a connection's first request, and responds that there are too many
/// connections.
///
/// # Errors
/// Fails if the client has closed the connection.
pub(crate) async fn respond(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut head = BytesMut::with_capacity(MAX_HEAD_BYTES);
    // Whoever sends none in time gets the response, too.
    if let Ok(read) = timeout(HEAD_TIMEOUT, read_head(stream, &mut head)).await {
        read?;
    }
    stream.write_all(response_to(&head)).await
}

/// Responds like [`respond`], by what has arrived of the head, and without a wait.
pub(crate) fn respond_at_once(stream: &TcpStream) {
    let mut head = [0; MAX_HEAD_BYTES];
    let read = stream.try_read(&mut head).unwrap_or(0);
    // Whoever has closed the connection gets none.
    let _ = stream.try_write(response_to(&head[..read]));
}

fn response_to(head: &[u8]) -> &'static [u8] {
    if requests_event_stream(head) {
        BUSY_EVENT_STREAM
    } else {
        BUSY_RESPONSE
    }
}

/// Reads until the end of a head, of the connection or of the room for it.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), head: &mut BytesMut) -> io::Result<()> {
    while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(head).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Returns whether a head of HTTP/1, perhaps an incomplete one, asks for an event stream.
fn requests_event_stream(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    if !lines.next().is_some_and(|line| line.starts_with(b"GET ")) {
        return false;
    }
    let mut headers = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"accept")
            && let Ok(value) = HeaderValue::from_bytes(value.trim_ascii())
        {
            headers.append(ACCEPT, value);
        }
    }
    event_stream::is_requested(&headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the response to a client that sends this and nothing more.
    async fn respond_to(parts: &[&str]) -> String {
        let (mut client, mut server) = tokio::io::duplex(64 << 10);
        for part in parts {
            client.write_all(part.as_bytes()).await.unwrap();
        }
        client.shutdown().await.unwrap();
        respond(&mut server).await.unwrap();
        drop(server);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        response
    }

    #[test]
    fn responses_declare_their_length() {
        for response in [BUSY_RESPONSE, BUSY_EVENT_STREAM] {
            let text = std::str::from_utf8(response).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("content-length: {}\r\n", body.len());
            assert!(head.contains(&length), "{}", body.len());
        }
    }

    #[tokio::test]
    async fn a_refusal_has_a_json_body() {
        let post = "POST /kv/b HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n";
        let other = "GET /kv/b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\naccept: text/event-stream";
        for request in ["", "\r\n\r\n", "GET", post, other] {
            let response = respond_to(&[request]).await;
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 503 "), "{request}: {head}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(json["error"], "unavailable");
        }
    }

    #[tokio::test]
    async fn clients_of_event_streams_are_told_to_come_back() {
        let parts = [
            "GET /kv/b HTTP/1.1\r\nHost: a\r\nacc",
            "ept:text/event-stream\r\n\r\n",
        ];
        let without_end = parts.concat();
        let without_end = [without_end.trim_end()];
        for request in [&parts[..], &without_end[..]] {
            let response = respond_to(request).await;
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
            assert!(response.contains("\r\ncontent-type: text/event-stream\r\n"));
            assert!(response.ends_with("\nretry: 2000\n"), "{response}");
        }
    }
}
