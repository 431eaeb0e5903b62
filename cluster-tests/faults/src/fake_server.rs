//! In-process key/value servers, correct and defective ones, to show that the checks find defects.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Defect of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// None: the server is correct.
    Healthy,
    /// One read in 50 returns the value before the last one.
    StaleReads,
    /// One write in 20 is acknowledged and lost.
    LostWrites,
    /// One conditional write in 10 is done although its condition isn't met.
    IgnoredConditions,
    /// One write in 50 has an unknown outcome, and is done twice, after the response.
    RepeatedWrites,
    /// One write in 50 is refused in the response, and done.
    FalseRefusals,
}

#[derive(Default)]
struct FakeKey {
    /// Values by age; the last one is the present one.
    versions: Vec<Option<(Bytes, u64)>>,
}

struct FakeServer {
    defect: Defect,
    keys: Mutex<(HashMap<String, FakeKey>, u64)>,
}

/// Starts a server that ends with the runtime.
pub(super) async fn serve(defect: Defect) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(FakeServer {
        defect,
        keys: Mutex::default(),
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, hyper::Error>(server.handle(request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

impl FakeServer {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        // Calls must overlap.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let value = (head.method == Method::PUT).then_some(body);
        let path = head.uri.path().to_owned();
        let (response, is_repeated) = self.decide(&head, &path, value.clone());
        if is_repeated {
            tokio::spawn(async move {
                for _ in 0..2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let (keys, version) = &mut *self.keys.lock().unwrap();
                    keys.entry(path.clone())
                        .or_default()
                        .write(version, value.clone());
                }
            });
        }
        response
    }

    /// Returns the response, and whether the write is to be done later.
    fn decide(
        &self,
        head: &http::request::Parts,
        path: &str,
        value: Option<Bytes>,
    ) -> (Response<Full<Bytes>>, bool) {
        let (keys, version) = &mut *self.keys.lock().unwrap();
        *version += 1;
        let is_due =
            |every: u64, defect: Defect| self.defect == defect && version.is_multiple_of(every);
        let (is_stale_read, is_lost) = (
            is_due(50, Defect::StaleReads),
            is_due(20, Defect::LostWrites),
        );
        let (ignores_condition, is_refused) = (
            is_due(10, Defect::IgnoredConditions),
            is_due(50, Defect::FalseRefusals),
        );
        let is_repeated = is_due(50, Defect::RepeatedWrites);
        let key = keys.entry(path.to_owned()).or_default();
        let current = key.versions.last().cloned().flatten();
        if head.method == Method::GET {
            let before = key.versions.len().checked_sub(2).filter(|_| is_stale_read);
            let value = before.map_or(current, |at| key.versions[at].clone());
            return (
                value.map_or_else(not_found_response, |(value, etag)| {
                    value_response(value, etag)
                }),
                false,
            );
        }
        if !is_condition_met(head, current.as_ref()) && !ignores_condition {
            return (empty_response(412), false);
        }
        if is_repeated {
            return (empty_response(504), true);
        }
        if !is_lost {
            key.write(version, value.clone());
        }
        let response = match value {
            _ if is_refused => empty_response(503),
            Some(_) => response_with_etag(200, *version)
                .body(Full::default())
                .unwrap(),
            None => empty_response(200),
        };
        (response, false)
    }
}

impl FakeKey {
    fn write(&mut self, version: &mut u64, value: Option<Bytes>) {
        *version += 1;
        self.versions.push(value.map(|value| (value, *version)));
    }
}

fn is_condition_met(head: &http::request::Parts, current: Option<&(Bytes, u64)>) -> bool {
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let if_match = header("if-match");
    let etag = current.map(|(_, etag)| format!("\"{etag}\""));
    if_match.is_none_or(|wanted| etag.as_deref() == Some(wanted))
        && (header("if-none-match").is_none() || current.is_none())
}

fn response_with_etag(status: u16, etag: u64) -> http::response::Builder {
    Response::builder()
        .status(status)
        .header("etag", format!("\"{etag}\""))
}

fn value_response(value: Bytes, etag: u64) -> Response<Full<Bytes>> {
    response_with_etag(200, etag)
        .body(Full::new(value))
        .unwrap()
}

fn empty_response(status: u16) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status);
    response.body(Full::default()).unwrap()
}

fn not_found_response() -> Response<Full<Bytes>> {
    let response = Response::builder()
        .status(404)
        .header("content-type", "application/json; charset=utf-8");
    let body = r#"{"error":"not_found","message":"no such key"}"#;
    response
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}
