//! A client that records its calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::call_record::{Action, CallRecord, Outcome};
use super::history::{History, KeyName};
use super::version::Version;
use super::workload::{self, Intent};
use crate::checker::{ABSENT, Value};
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, HttpResponse, RawRequest};

/// Time for a response; after it a write's outcome is unknown.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Backoff after a call without effect, in milliseconds.
const RETRY_BACKOFF_MS: std::ops::Range<u64> = 5..50;

/// State that all clients of a run share.
#[derive(Debug)]
pub(super) struct ClientContext {
    pub history: History,
    pub bucket: Bucket,
    /// Public addresses of the nodes, by seat.
    pub nodes: Vec<SocketAddr>,
    /// Source of unique values.
    pub last_value: AtomicU64,
    /// Pause of a client between two calls, in milliseconds.
    pub think_time_ms: std::ops::Range<u64>,
    pub stop: AtomicBool,
}

impl ClientContext {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn new_value(&self) -> Value {
        self.last_value.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Optional parts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestOptions<'a> {
    /// Session token.
    pub token: Option<&'a str>,
    /// Time to live of the written value, in seconds.
    pub ttl: Option<u64>,
    /// Content type of the written value.
    pub content_type: Option<&'a str>,
    /// True if the node's own replica may answer the read (`consistency=eventual`).
    pub is_eventual: bool,
}

/// A call's record and the session token of its response.
#[derive(Debug)]
pub(super) struct CallResult {
    pub record: CallRecord,
    /// Session token.
    pub token: Option<String>,
}

/// A client of one node.
#[derive(Debug)]
pub(super) struct RecordingClient {
    shared: Arc<ClientContext>,
    number: u32,
    seat: usize,
    connection: NodeConnection,
    rng: Rng,
}

impl RecordingClient {
    pub(super) fn new(shared: &Arc<ClientContext>, number: u32, seat: usize, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            number,
            seat,
            connection: NodeConnection::new(shared.nodes[seat], RESPONSE_TIMEOUT),
            rng: Rng::derived(seed, u64::from(number)),
        }
    }

    /// Calls until the run is stopped.
    pub(super) async fn run(mut self) {
        while !self.shared.is_stopped() {
            let generation = self.shared.history.generation();
            let (key, intent) = workload::next_call(&mut self.rng, generation);
            let outcome = self.carry_out(key, intent).await;
            if matches!(outcome, Outcome::Unknown | Outcome::NotDone) {
                tokio::time::sleep(self.rng.millis(RETRY_BACKOFF_MS)).await;
            }
            if !self.shared.think_time_ms.is_empty() {
                tokio::time::sleep(self.rng.millis(self.shared.think_time_ms.clone())).await;
            }
        }
    }

    async fn carry_out(&mut self, key: KeyName, intent: Intent) -> Outcome {
        let value = self.shared.new_value();
        if let Some(action) = intent.action(value) {
            return self.call_recorded(key, action, None).await.outcome;
        }
        let read = self.call_recorded(key, Action::Get, None).await;
        let (Outcome::Read(was), Some(etag)) = (read.outcome, &read.etag) else {
            return read.outcome;
        };
        let action = intent.conditional_action(was, value);
        self.call_recorded(key, action, Some(etag)).await.outcome
    }

    /// Calls and adds the call to the history.
    async fn call_recorded(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
    ) -> CallRecord {
        let record = self.send(key, action, etag).await;
        self.shared.history.record(key, record.clone());
        record
    }

    /// Calls without adding the call to the history.
    pub(super) async fn send(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
    ) -> CallRecord {
        let result = self.send_with(key, action, etag, RequestOptions::default());
        result.await.record
    }

    /// Calls with optional parts of a request, without adding the call to the history.
    pub(super) async fn send_with(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
        extras: RequestOptions<'_>,
    ) -> CallResult {
        let request = build_request(&self.shared.bucket, key, action, etag, extras);
        let start = self.shared.history.now();
        let sent = self.connection.exchange(&request).await;
        let end = self.shared.history.now();
        let mut token = None;
        let (outcome, etag) = match sent {
            ExchangeOutcome::Response(response) => {
                token = response.find_header("x-cloudkv-version").map(str::to_owned);
                self.interpret(key, action, &response)
            }
            ExchangeOutcome::NotSent => (Outcome::NotDone, None),
            ExchangeOutcome::Closed | ExchangeOutcome::Lost => (Outcome::Unknown, None),
        };
        // A DELETE has no ETag; if the request carried no token, the response's token holds its
        // version. The token of a read that found nothing names the deleted version: no condition
        // can require that.
        let has_own_version = extras.token.is_none() && outcome == Outcome::Written;
        let own_token = token.as_deref().filter(|_| has_own_version);
        let of_token = || Some(Version::from_token(own_token?)?.etag().into());
        let record = CallRecord {
            client: self.number,
            seat: self.seat,
            start,
            end,
            action,
            outcome,
            etag: etag.or_else(of_token),
        };
        CallResult { record, token }
    }

    fn interpret(
        &self,
        key: KeyName,
        action: Action,
        response: &HttpResponse,
    ) -> (Outcome, Option<Box<str>>) {
        let etag = response.find_header("etag").map(Box::from);
        let conditional = !matches!(action, Action::Get | Action::Put(_) | Action::Delete);
        let outcome = match (response.status, action) {
            (200, Action::Get) => response.text().trim().parse().ok().map(Outcome::Read),
            (404, Action::Get) if response.error_code() == "not_found" => {
                Some(Outcome::Read(ABSENT))
            }
            (200, _) => Some(Outcome::Written),
            (412, _) if conditional => Some(Outcome::ConditionFailed),
            (503, _) => Some(Outcome::NotDone),
            (504, _) => Some(Outcome::Unknown),
            _ => None,
        };
        let outcome = outcome.unwrap_or_else(|| {
            let (number, seat) = (self.number, self.seat);
            let anomaly =
                format!("client {number} at node {seat}, {key}, {action:?}: {response:?}");
            self.shared.history.record_anomaly(anomaly);
            Outcome::Unknown
        });
        (outcome, etag)
    }
}

fn build_request(
    bucket: &Bucket,
    key: KeyName,
    action: Action,
    etag: Option<&str>,
    extras: RequestOptions<'_>,
) -> RawRequest {
    let mut path = bucket.key_path(&key.to_string());
    match extras.ttl {
        Some(ttl) => path += &format!("?ttl={ttl}"),
        None if extras.is_eventual => path += "?consistency=eventual",
        None => {}
    }
    let new = |method| {
        let mut request = RawRequest::new(method, &path);
        let headers = [
            ("X-CloudKV-Min-Version", extras.token),
            ("Content-Type", extras.content_type),
        ];
        for (name, value) in headers {
            request = match value {
                Some(value) => request.header(name, value),
                None => request,
            };
        }
        request
    };
    let conditional = |request: RawRequest| match etag {
        Some(etag) => request.header("If-Match", etag),
        None => request,
    };
    let put = |value: Value| (new("PUT"), value.to_string());
    match action {
        Action::Get => new("GET"),
        Action::Delete => new("DELETE"),
        Action::DeleteIfMatch(_) => conditional(new("DELETE")),
        Action::Put(value) => {
            let (request, body) = put(value);
            request.parse_body(body.as_bytes())
        }
        Action::Create(value) => {
            let (request, body) = put(value);
            request
                .header("If-None-Match", "*")
                .parse_body(body.as_bytes())
        }
        Action::PutIfMatch { value, .. } => {
            let (request, body) = put(value);
            conditional(request).parse_body(body.as_bytes())
        }
    }
}
