//! In-process key/value servers, correct and defective ones, to show that the checks find defects.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::answer::METADATA_HEADER;
use super::fake_store::{Defect, FakeAnswer, FakeEntry, FakeRequest, FakeStore, FakeWrite};

/// ID of the only bucket.
pub(super) const BUCKET: &str = "fake";

struct FakeServer {
    store: Mutex<FakeStore>,
}

/// Starts a server that ends with the runtime.
pub(super) async fn serve(defect: Defect) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(FakeServer {
        store: Mutex::new(FakeStore::new(defect)),
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
        let body = String::from_utf8(body.to_vec()).unwrap();
        // Calls must overlap.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let key = head.uri.path().strip_prefix(&format!("/kv/{BUCKET}/"));
        match key {
            Some(key) => self.answer_call(parse_call(&head, key, body)),
            None if head.method == Method::POST => self.answer_batch(&body),
            None => self.answer_list(&head),
        }
    }

    fn execute(self: &Arc<Self>, request: &FakeRequest) -> FakeAnswer {
        let answer = self.store.lock().unwrap().execute(request);
        if let Some(write) = request.write.clone().filter(|_| answer.is_repeated) {
            let (server, key) = (self.clone(), request.key.clone());
            tokio::spawn(async move {
                for _ in 0..2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    server.store.lock().unwrap().write(&key, &write);
                }
            });
        }
        answer
    }

    fn answer_call(self: &Arc<Self>, request: FakeRequest) -> Response<Full<Bytes>> {
        let answer = self.execute(&request);
        if answer.status == 404 {
            return not_found_response();
        }
        let mut response = Response::builder().status(answer.status);
        let entry = answer.entry;
        if let Some(version) = answer.version.or(entry.as_ref().map(|entry| entry.version)) {
            response = response.header("etag", format!("\"{version}\""));
        }
        let Some(entry) = entry else {
            return response.body(Full::default()).unwrap();
        };
        if entry.metadata != Value::Null {
            response = response.header(METADATA_HEADER, entry.metadata.to_string());
        }
        response.body(Full::from(entry.value)).unwrap()
    }

    fn answer_batch(self: &Arc<Self>, body: &str) -> Response<Full<Bytes>> {
        let lines = body
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let requests: Vec<FakeRequest> = lines.map(|line| parse_line(&line)).collect();
        let is_reversed = self.store.lock().unwrap().defect == Defect::ReorderedBatches;
        let answer = |request: &FakeRequest| {
            let line = answer_line(request, self.execute(request));
            format!("{line}\n")
        };
        let answer: Vec<String> = if is_reversed {
            let mut answers: Vec<String> = requests.iter().rev().map(answer).collect();
            answers.reverse();
            answers
        } else {
            requests.iter().map(answer).collect()
        };
        Response::new(Full::from(answer.concat()))
    }

    fn answer_list(&self, head: &Parts) -> Response<Full<Bytes>> {
        let query = head.uri.query().unwrap_or_default();
        let prefix = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("prefix="));
        let listed = self.store.lock().unwrap().list(prefix.unwrap_or_default());
        if listed.is_empty() {
            return not_found_response();
        }
        let keys = listed.iter().map(|(name, entry)| {
            let mut listed = entry_json(entry);
            listed["name"] = name.as_str().into();
            listed
        });
        let keys: Vec<Value> = keys.collect();
        let list = json!({"keys": keys, "prefixes": [], "list_complete": true});
        Response::new(Full::from(list.to_string()))
    }
}

fn parse_call(head: &Parts, key: &str, body: String) -> FakeRequest {
    let header = |name: &str| {
        let value = head.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let metadata = header(METADATA_HEADER);
    let metadata = metadata.map_or(Value::Null, |text| text.parse().unwrap());
    let write = match head.method {
        Method::PUT => Some(FakeWrite::Put {
            value: body,
            metadata,
        }),
        Method::DELETE => Some(FakeWrite::Delete),
        Method::PATCH => Some(FakeWrite::Touch { metadata }),
        _ => None,
    };
    FakeRequest {
        key: key.to_owned(),
        write,
        if_match: header("if-match"),
        is_creation: header("if-none-match").is_some(),
        is_in_batch: false,
    }
}

fn parse_line(line: &Value) -> FakeRequest {
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let metadata = line["metadata"].clone();
    let write = match line["op"].as_str().unwrap() {
        "put" => Some(FakeWrite::Put {
            value: text("value").unwrap(),
            metadata,
        }),
        "delete" => Some(FakeWrite::Delete),
        "touch" => Some(FakeWrite::Touch { metadata }),
        _ => None,
    };
    FakeRequest {
        key: text("key").unwrap(),
        write,
        if_match: text("if_match"),
        is_creation: text("if_none_match").is_some(),
        is_in_batch: true,
    }
}

fn answer_line(request: &FakeRequest, answer: FakeAnswer) -> Value {
    let mut line = match &answer.entry {
        Some(entry) => entry_json(entry),
        None => json!({}),
    };
    line["key"] = request.key.as_str().into();
    line["status"] = answer.status.into();
    if let Some(version) = answer.version {
        line["version"] = version.to_string().into();
    }
    if answer.status == 404 {
        line["error"] = "not_found".into();
    }
    line
}

fn entry_json(entry: &FakeEntry) -> Value {
    json!({
        "version": entry.version.to_string(),
        "value": entry.value,
        "metadata": entry.metadata,
    })
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
