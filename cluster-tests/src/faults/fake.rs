//! Servers of keys in this process, right ones and broken ones, to show that the checks find
//! what is broken.

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

/// How a server is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// It isn't.
    No,
    /// One read in 50 gives the value before the last one.
    OldReads,
    /// One write in 200 is acknowledged and forgotten.
    LostWrites,
    /// One conditional write in 10 happens although its condition doesn't hold.
    ForgottenConditions,
    /// One write in 50 has an unknown outcome, and happens twice, later.
    RepeatedWrites,
    /// A write in 50 is answered with a refusal, and happens.
    FalseRefusals,
}

#[derive(Default)]
struct Key {
    /// The last one is what is there.
    written: Vec<Option<(Bytes, u64)>>,
}

struct Server {
    how: Break,
    keys: Mutex<(HashMap<String, Key>, u64)>,
}

/// Starts a server that ends with the runtime.
pub(super) async fn serve(how: Break) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Server {
        how,
        keys: Mutex::default(),
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, hyper::Error>(server.answer(request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        // So that calls overlap.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let value = (head.method == Method::PUT).then_some(body);
        let path = head.uri.path().to_owned();
        let (answer, again) = self.decide(&head, &path, value.clone());
        if again {
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
        answer
    }

    /// The answer, and whether a write is to happen later.
    fn decide(
        &self,
        head: &http::request::Parts,
        path: &str,
        value: Option<Bytes>,
    ) -> (Response<Full<Bytes>>, bool) {
        let (keys, version) = &mut *self.keys.lock().unwrap();
        *version += 1;
        let now = |every: u64, how: Break| self.how == how && version.is_multiple_of(every);
        let (old_read, lost) = (now(50, Break::OldReads), now(20, Break::LostWrites));
        let (forgets, refuses) = (
            now(10, Break::ForgottenConditions),
            now(50, Break::FalseRefusals),
        );
        let repeats = now(50, Break::RepeatedWrites);
        let key = keys.entry(path.to_owned()).or_default();
        let there = key.written.last().cloned().flatten();
        if head.method == Method::GET {
            let before = key.written.len().checked_sub(2).filter(|_| old_read);
            let found = before.map_or(there, |at| key.written[at].clone());
            return (
                found.map_or_else(absent, |(value, etag)| found_one(value, etag)),
                false,
            );
        }
        if !condition_holds(head, there.as_ref()) && !forgets {
            return (plain(412), false);
        }
        if repeats {
            return (plain(504), true);
        }
        if !lost {
            key.write(version, value.clone());
        }
        let answer = match value {
            _ if refuses => plain(503),
            Some(_) => etagged(200, *version).body(Full::default()).unwrap(),
            None => plain(200),
        };
        (answer, false)
    }
}

impl Key {
    fn write(&mut self, version: &mut u64, value: Option<Bytes>) {
        *version += 1;
        self.written.push(value.map(|value| (value, *version)));
    }
}

fn condition_holds(head: &http::request::Parts, there: Option<&(Bytes, u64)>) -> bool {
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let matches = header("if-match");
    let etag = there.map(|(_, etag)| format!("\"{etag}\""));
    matches.is_none_or(|wanted| etag.as_deref() == Some(wanted))
        && (header("if-none-match").is_none() || there.is_none())
}

fn etagged(status: u16, etag: u64) -> http::response::Builder {
    Response::builder()
        .status(status)
        .header("etag", format!("\"{etag}\""))
}

fn found_one(value: Bytes, etag: u64) -> Response<Full<Bytes>> {
    etagged(200, etag).body(Full::new(value)).unwrap()
}

fn plain(status: u16) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status);
    response.body(Full::default()).unwrap()
}

fn absent() -> Response<Full<Bytes>> {
    let response = Response::builder()
        .status(404)
        .header("content-type", "application/json; charset=utf-8");
    let body = r#"{"error":"not_found","message":"no such key"}"#;
    response
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}
