//! Tests of the server itself. Requests that need buckets are tested against the real service.

use std::future::pending;

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::*;
use crate::server::{ConnectionMetrics, RequestBody, RequestOrigin};

/// Handler that never responds.
#[derive(Default)]
struct NoResponse {
    called: Notify,
    metrics: Arc<ConnectionMetrics>,
}

impl RequestHandler for NoResponse {
    type Body = Body;

    async fn handle(&self, _: Request<RequestBody>, _: RequestOrigin) -> Response<Self::Body> {
        self.called.notify_one();
        pending().await
    }

    fn overloaded(&self, _: HeaderValue) -> Response<Self::Body> {
        Response::default()
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.metrics
    }
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_when_the_drain_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port {
        listener,
        encryption: Encryption::Off,
    };
    let settings = HttpSettings {
        lame_duck: Duration::ZERO,
        drain_timeout: Duration::from_millis(10),
        ..HttpSettings::default()
    };
    let (handler, shutdown) = (Arc::new(NoResponse::default()), CancellationToken::new());
    let served = tokio::spawn(serve(port, handler.clone(), settings, shutdown.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    handler.called.notified().await;
    shutdown.cancel();
    served.await.unwrap();
    assert_eq!(
        handler.metrics.open_connections(),
        0,
        "it outlives the server"
    );
}

#[test]
fn the_busy_answer_declares_its_length() {
    let text = std::str::from_utf8(BUSY_RESPONSE).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())),
        "{}",
        body.len()
    );
    assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
}

#[test]
fn errors_of_one_connection_dont_stop_the_others() {
    assert!(is_connection_error(
        &io::ErrorKind::ConnectionAborted.into()
    ));
    assert!(!is_connection_error(&io::Error::from_raw_os_error(24)));
}
