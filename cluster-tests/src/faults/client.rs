//! A client that records its calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::call::{Action, Outcome, Record};
use super::ledger::{KeyName, Ledger};
use super::line::{Line, Reply};
use super::version::Version;
use super::workload::{self, Intent};
use crate::checker::{ABSENT, Value};
use crate::harness::{Answer, Bucket, RawRequest};
use crate::rng::Rng;

/// Time for a response; after it a write's outcome is unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Backoff after a call without effect, in milliseconds.
const PAUSE: std::ops::Range<u64> = 5..50;

/// State that all clients of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub ledger: Ledger,
    pub bucket: Bucket,
    /// Public addresses of the nodes, by seat.
    pub nodes: Vec<SocketAddr>,
    /// Source of unique values.
    pub values: AtomicU64,
    /// Pause of a client between two calls, in milliseconds.
    pub pace: std::ops::Range<u64>,
    pub stop: AtomicBool,
}

impl Shared {
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn new_value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Optional parts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras<'a> {
    /// Session token.
    pub token: Option<&'a str>,
    /// Time to live of the written value, in seconds.
    pub ttl: Option<u64>,
    /// Content type of the written value.
    pub content_type: Option<&'a str>,
    /// True if the node's own replica may answer the read (`consistency=eventual`).
    pub eventual: bool,
}

/// A call's record and the session token of its response.
#[derive(Debug)]
pub(super) struct Asked {
    pub record: Record,
    /// Session token.
    pub token: Option<String>,
}

/// A client of one node.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    number: u32,
    seat: usize,
    line: Line,
    rng: Rng,
}

impl Client {
    pub fn new(shared: &Arc<Shared>, number: u32, seat: usize, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            number,
            seat,
            line: Line::new(shared.nodes[seat], PATIENCE),
            rng: Rng::branch(seed, u64::from(number)),
        }
    }

    /// Calls until the run is stopped.
    pub async fn run(mut self) {
        while !self.shared.stopped() {
            let generation = self.shared.ledger.generation();
            let (key, intent) = workload::next(&mut self.rng, generation);
            let outcome = self.carry_out(key, intent).await;
            if matches!(outcome, Outcome::Unknown | Outcome::Nothing) {
                tokio::time::sleep(self.rng.millis(PAUSE)).await;
            }
            if !self.shared.pace.is_empty() {
                tokio::time::sleep(self.rng.millis(self.shared.pace.clone())).await;
            }
        }
    }

    async fn carry_out(&mut self, key: KeyName, intent: Intent) -> Outcome {
        let value = self.shared.new_value();
        let action = match intent {
            Intent::Get => Action::Get,
            Intent::Put => Action::Put(value),
            Intent::Delete => Action::Delete,
            Intent::Create => Action::Create(value),
            Intent::Swap | Intent::DeleteThat => {
                let read = self.call(key, Action::Get, None).await;
                let (Outcome::Found(was), Some(etag)) = (read.outcome, &read.etag) else {
                    return read.outcome;
                };
                let action = match intent {
                    Intent::Swap => Action::Swap { was, value },
                    _ => Action::DeleteThat(was),
                };
                return self.call(key, action, Some(etag)).await.outcome;
            }
        };
        self.call(key, action, None).await.outcome
    }

    /// Calls and adds the call to the history.
    async fn call(&mut self, key: KeyName, action: Action, etag: Option<&str>) -> Record {
        let record = self.ask(key, action, etag).await;
        self.shared.ledger.record(key, record.clone());
        record
    }

    /// Calls without adding the call to the history.
    pub async fn ask(&mut self, key: KeyName, action: Action, etag: Option<&str>) -> Record {
        let result = self.ask_with(key, action, etag, Extras::default());
        result.await.record
    }

    /// Calls with optional parts of a request, without adding the call to the history.
    pub async fn ask_with(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
        extras: Extras<'_>,
    ) -> Asked {
        let request = request(&self.shared.bucket, key, action, etag, extras);
        let start = self.shared.ledger.now();
        let sent = self.line.exchange(&request).await;
        let end = self.shared.ledger.now();
        let mut token = None;
        let (outcome, etag) = match sent {
            Reply::Answer(response) => {
                token = response.find_header("x-cloudkv-version").map(str::to_owned);
                self.understand(key, action, &response)
            }
            Reply::NotSent => (Outcome::Nothing, None),
            Reply::Closed | Reply::Lost => (Outcome::Unknown, None),
        };
        // A DELETE has no ETag; if the request carried no token, the response's token holds its
        // version. The token of a read that found nothing names the deleted version: no condition
        // can require that.
        let has_own_version = extras.token.is_none() && outcome == Outcome::Done;
        let own_token = token.as_deref().filter(|_| has_own_version);
        let of_token = || Some(Version::of_token(own_token?)?.etag().into());
        let record = Record {
            client: self.number,
            seat: self.seat,
            start,
            end,
            action,
            outcome,
            etag: etag.or_else(of_token),
        };
        Asked { record, token }
    }

    fn understand(
        &self,
        key: KeyName,
        action: Action,
        response: &Answer,
    ) -> (Outcome, Option<Box<str>>) {
        let etag = response.find_header("etag").map(Box::from);
        let conditional = !matches!(action, Action::Get | Action::Put(_) | Action::Delete);
        let outcome = match (response.status, action) {
            (200, Action::Get) => response.text().trim().parse().ok().map(Outcome::Found),
            (404, Action::Get) if response.error_code() == "not_found" => {
                Some(Outcome::Found(ABSENT))
            }
            (200, _) => Some(Outcome::Done),
            (412, _) if conditional => Some(Outcome::Failed),
            (503, _) => Some(Outcome::Nothing),
            (504, _) => Some(Outcome::Unknown),
            _ => None,
        };
        let outcome = outcome.unwrap_or_else(|| {
            let (number, seat) = (self.number, self.seat);
            let anomaly = format!("client {number} at node {seat}, {key}, {action:?}: {response:?}");
            self.shared.ledger.odd(anomaly);
            Outcome::Unknown
        });
        (outcome, etag)
    }
}

fn request(
    bucket: &Bucket,
    key: KeyName,
    action: Action,
    etag: Option<&str>,
    extras: Extras<'_>,
) -> RawRequest {
    let mut path = bucket.key(&key.to_string());
    match extras.ttl {
        Some(ttl) => path += &format!("?ttl={ttl}"),
        None if extras.eventual => path += "?consistency=eventual",
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
        Action::DeleteThat(_) => conditional(new("DELETE")),
        Action::Put(value) => {
            let (request, body) = put(value);
            request.body(body.as_bytes())
        }
        Action::Create(value) => {
            let (request, body) = put(value);
            request.header("If-None-Match", "*").body(body.as_bytes())
        }
        Action::Swap { value, .. } => {
            let (request, body) = put(value);
            conditional(request).body(body.as_bytes())
        }
    }
}
