//! An in-process server with one bucket that can be watched, correct or defective, to show that the
//! checks of watchers find defects.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::response::Builder;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use cloudkv_test_harness::Bucket;

/// ID of the only bucket.
const BUCKET: &str = "fake";

/// Key whose events are defective.
pub(super) const DEFECTIVE_KEY: &str = "b";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Defect of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchDefect {
    Healthy,
    /// Puts of a key aren't told.
    LostPuts,
    /// Deletions of a key aren't told.
    LostDeletes,
    /// Two events of a key come in the wrong order.
    Swapped,
    /// Events of a key have its value from before.
    OldValues,
    /// Nothing is told at all.
    Silent,
}

/// The bucket, and all that was told of it.
pub(super) struct FakeBucket {
    defect: WatchDefect,
    state: Mutex<FakeState>,
    /// Number of events.
    length: watch::Sender<usize>,
}

#[derive(Default)]
struct FakeState {
    keys: BTreeMap<String, Value>,
    last_version: u64,
    events: Vec<String>,
    /// Event that comes after the next one of its key.
    held_back: Option<String>,
}

impl FakeBucket {
    /// Starts a server that ends with the runtime; returns its address and its bucket.
    pub(super) async fn serve(defect: WatchDefect) -> (SocketAddr, Bucket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Self {
            defect,
            state: Mutex::default(),
            length: watch::channel(0).0,
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.handle(request).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        let bucket = Bucket {
            id: BUCKET.into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        };
        (address, bucket)
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let value = String::from_utf8(body.to_vec()).unwrap();
        let key = head.uri.path().strip_prefix(&format!("/kv/{BUCKET}/"));
        let is_stream = head
            .headers
            .get("accept")
            .is_some_and(|it| it == "text/event-stream");
        match key {
            Some(key) if head.method == Method::PUT => self.put(key, &value),
            Some(key) => self.delete(key),
            None if is_stream => {
                let query = head.uri.query().unwrap_or_default();
                self.stream(query.contains("initial=true"))
            }
            None => self.list(),
        }
    }

    fn put(&self, key: &str, value: &str) -> Answer {
        let mut state = self.state.lock().unwrap();
        let version = state.next_version();
        let fields = json!({"name": key, "size": value.len(), "version": version,
            "modified_at": "now", "expires_at": null, "content_type": "text/plain",
            "metadata": null, "value": value});
        let before = state.keys.insert(key.to_owned(), fields.clone());
        let mut told = fields;
        if self.is_defective(key, WatchDefect::OldValues)
            && let Some(before) = before
        {
            told["value"] = before["value"].clone();
        }
        if !self.is_defective(key, WatchDefect::LostPuts) {
            self.publish(&mut state, key, event("put", &version, &told));
        }
        let response = response(200).header("etag", format!("\"{version}\""));
        with_text(response, String::new())
    }

    fn delete(&self, key: &str) -> Answer {
        let mut state = self.state.lock().unwrap();
        let version = state.next_version();
        state.keys.remove(key);
        if !self.is_defective(key, WatchDefect::LostDeletes) {
            let data = json!({"name": key, "version": version});
            self.publish(&mut state, key, event("delete", &version, &data));
        }
        with_text(response(200), String::new())
    }

    fn is_defective(&self, key: &str, defect: WatchDefect) -> bool {
        key == DEFECTIVE_KEY && self.defect == defect
    }

    fn publish(&self, state: &mut FakeState, key: &str, event: String) {
        if self.defect == WatchDefect::Silent {
            return;
        }
        let is_swapped = self.is_defective(key, WatchDefect::Swapped);
        if is_swapped && state.held_back.is_none() {
            state.held_back = Some(event);
            return;
        }
        state.events.push(event);
        if is_swapped {
            let held_back = state.held_back.take();
            state.events.extend(held_back);
        }
        self.length.send_replace(state.events.len());
    }

    fn list(&self) -> Answer {
        let state = self.state.lock().unwrap();
        let keys: Vec<&Value> = state.keys.values().collect();
        let list = json!({"keys": keys, "prefixes": [], "list_complete": true});
        with_text(response(200), list.to_string())
    }

    /// Returns a stream of what there is, if it is asked for, and of all later events.
    fn stream(self: &Arc<Self>, is_initial: bool) -> Answer {
        let (mut beginning, position) = {
            let state = self.state.lock().unwrap();
            let keys = state.keys.values().filter(|_| is_initial);
            let puts = keys.map(|fields| event("put", "0", fields));
            (puts.collect::<String>(), state.events.len())
        };
        beginning += &event("ready", "0", &json!({"region": "fake"}));
        let beginning = stream::iter([Ok(Frame::data(Bytes::from(beginning)))]);
        let body = StreamBody::new(stream::StreamExt::chain(
            beginning,
            self.clone().events_from(position),
        ));
        let response = response(200)
            .header("content-type", "text/event-stream")
            .header("cache-control", "no-store")
            .header("x-accel-buffering", "no");
        response.body(body.boxed_unsync()).unwrap()
    }

    fn events_from(
        self: Arc<Self>,
        position: usize,
    ) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
        let length = self.length.subscribe();
        let start = (self, position, length);
        stream::unfold(start, |(server, position, mut length)| async move {
            if length.wait_for(|length| *length > position).await.is_err() {
                return None;
            }
            let (events, position) = {
                let state = server.state.lock().unwrap();
                (state.events[position..].concat(), state.events.len())
            };
            let frame = Frame::data(Bytes::from(events));
            Some((Ok(frame), (server, position, length)))
        })
    }
}

impl FakeState {
    fn next_version(&mut self) -> String {
        self.last_version += 1;
        format!("{:016x}-1", self.last_version)
    }
}

fn event(name: &str, id: &str, data: &Value) -> String {
    format!("event: {name}\nid: {id}\ndata: {data}\n\n")
}

fn with_text(response: Builder, text: String) -> Answer {
    let body = Full::new(Bytes::from(text));
    response.body(body.boxed_unsync()).unwrap()
}

fn response(status: u16) -> Builder {
    let response = Response::builder().status(status);
    let response = response.header("x-request-id", "1");
    response.header("x-cloudkv-region", "fake")
}
