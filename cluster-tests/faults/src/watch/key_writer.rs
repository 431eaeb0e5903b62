//! A writer of a few keys, in all ways in which a key changes: puts, deletes, short times to live,
//! touches, and batches of these. Watchers of a key, or of a prefix, always have something to see,
//! and other regions write the same keys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::recording_client::RESPONSE_TIMEOUT;
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, RawRequest};

/// Beginning of the names of these keys. No other client writes such.
pub(crate) const WATCHED_PREFIX: &str = "watched/";

const KEY_COUNT: u64 = 8;

/// Times to live, in seconds.
const TTL_SECS: std::ops::Range<u64> = 1..5;

/// Number of operations in a batch.
const BATCH_OPERATIONS: std::ops::Range<u64> = 2..8;

/// Pause between two requests, in milliseconds.
const WRITE_INTERVAL_MS: std::ops::Range<u64> = 10..100;

/// Returns the name of a key.
pub(super) fn key_name(number: u64) -> String {
    format!("{WATCHED_PREFIX}k{number}")
}

/// Change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyWrite {
    Put { ttl: Option<u64> },
    Delete,
    Touch,
}

impl KeyWrite {
    fn draw(rng: &mut Rng) -> Self {
        match rng.range(0..100) {
            0..55 => Self::Put { ttl: None },
            55..75 => Self::Put {
                ttl: Some(rng.range(TTL_SECS)),
            },
            75..90 => Self::Delete,
            _ => Self::Touch,
        }
    }

    /// Returns the request for one key.
    fn to_request(self, bucket: &Bucket, key: &str, number: u64) -> RawRequest {
        let path = bucket.key_path(key);
        let value = number.to_string();
        match self {
            Self::Put { ttl } => {
                let query = ttl.map(|ttl| format!("?ttl={ttl}")).unwrap_or_default();
                RawRequest::new("PUT", &format!("{path}{query}")).parse_body(value.as_bytes())
            }
            Self::Delete => RawRequest::new("DELETE", &path),
            Self::Touch => {
                let metadata = json!({"touch": number}).to_string();
                RawRequest::new("PATCH", &path).header("x-cloudkv-metadata", &metadata)
            }
        }
    }

    /// Returns the line of a batch.
    fn to_line(self, key: &str, number: u64) -> Value {
        match self {
            Self::Put { ttl } => {
                let mut line = json!({"op": "put", "key": key, "value": number.to_string()});
                if let Some(ttl) = ttl {
                    line["ttl"] = ttl.into();
                }
                line
            }
            Self::Delete => json!({"op": "delete", "key": key}),
            Self::Touch => json!({"op": "touch", "key": key, "metadata": {"touch": number}}),
        }
    }
}

/// A client that writes these keys.
pub(super) struct KeyWriter {
    bucket: Bucket,
    connections: Vec<NodeConnection>,
    rng: Rng,
    stop: Arc<AtomicBool>,
    /// Number of the last write.
    last: u64,
    /// Number of acknowledged requests.
    pub acknowledged: u64,
    /// Responses that no client should get.
    pub anomalies: Vec<String>,
}

impl KeyWriter {
    /// Creates a client of these nodes.
    pub(super) fn new(
        bucket: &Bucket,
        nodes: &[SocketAddr],
        rng: Rng,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let connections = nodes.iter();
        let connections = connections.map(|node| NodeConnection::new(*node, RESPONSE_TIMEOUT));
        Self {
            bucket: bucket.clone(),
            connections: connections.collect(),
            rng,
            stop: stop.clone(),
            last: 0,
            acknowledged: 0,
            anomalies: vec![],
        }
    }

    /// Writes until the run is stopped.
    pub(super) async fn run(mut self) -> Self {
        while !self.stop.load(Ordering::Relaxed) {
            let request = self.draw_request();
            let seat = self.rng.index(self.connections.len());
            match self.connections[seat].exchange(&request).await {
                ExchangeOutcome::Response(response) => match response.status {
                    200 => self.acknowledged += 1,
                    // A touch of a key that isn't there.
                    404 if response.error_code() == "not_found" => self.acknowledged += 1,
                    503 | 504 => {}
                    _ => self.anomalies.push(format!("a watched key: {response:?}")),
                },
                ExchangeOutcome::NotSent | ExchangeOutcome::Closed | ExchangeOutcome::Lost => {}
            }
            tokio::time::sleep(self.rng.millis(WRITE_INTERVAL_MS)).await;
        }
        self
    }

    /// Draws a request: one in five is a batch.
    fn draw_request(&mut self) -> RawRequest {
        if !self.rng.chance_permille(200) {
            let (key, write) = self.draw_write();
            return write.to_request(&self.bucket, &key, self.last);
        }
        let mut body = String::new();
        for _ in 0..self.rng.range(BATCH_OPERATIONS) {
            let (key, write) = self.draw_write();
            body += &format!("{}\n", write.to_line(&key, self.last));
        }
        RawRequest::new("POST", &self.bucket.listing_path())
            .header("Content-Type", "application/x-ndjson")
            .parse_body(body.as_bytes())
    }

    fn draw_write(&mut self) -> (String, KeyWrite) {
        self.last += 1;
        let key = key_name(self.rng.range(0..KEY_COUNT));
        (key, KeyWrite::draw(&mut self.rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_become_requests_and_lines() {
        let bucket = Bucket {
            id: "b".into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        };
        let text = |write: KeyWrite| {
            let request = write.to_request(&bucket, "watched/k1", 7);
            String::from_utf8(request.bytes()).unwrap()
        };
        let put = text(KeyWrite::Put { ttl: Some(3) });
        assert!(put.starts_with("PUT /kv/b/watched/k1?ttl=3 HTTP/1.1\r\n") && put.ends_with("7"));
        assert!(text(KeyWrite::Delete).starts_with("DELETE /kv/b/watched/k1 HTTP/1.1\r\n"));
        assert!(text(KeyWrite::Touch).contains("x-cloudkv-metadata: {\"touch\":7}\r\n"));
        let line = |write: KeyWrite| write.to_line("k", 7);
        let put = json!({"op": "put", "key": "k", "value": "7"});
        assert_eq!(line(KeyWrite::Put { ttl: None }), put);
        assert_eq!(line(KeyWrite::Put { ttl: Some(3) })["ttl"], 3);
        let touch = json!({"op": "touch", "key": "k", "metadata": {"touch": 7}});
        assert_eq!(line(KeyWrite::Touch), touch);
    }

    #[test]
    fn every_kind_of_write_is_drawn() {
        let mut rng = Rng::new(1);
        let drawn: Vec<KeyWrite> = (0..200).map(|_| KeyWrite::draw(&mut rng)).collect();
        let has = |kind: fn(&KeyWrite) -> bool| drawn.iter().any(kind);
        assert!(has(|write| matches!(write, KeyWrite::Put { ttl: None })));
        assert!(has(|write| matches!(
            write,
            KeyWrite::Put { ttl: Some(1..5) }
        )));
        assert!(has(|write| *write == KeyWrite::Delete));
        assert!(has(|write| *write == KeyWrite::Touch));
    }
}
