//! A client that records what it does.

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

/// How long a client waits for an answer; after it a write's fate is unknown.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client waits before it calls a node again that didn't do what it asked for.
const PAUSE: std::ops::Range<u64> = 5..50;

/// What all clients of a run have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub ledger: Ledger,
    pub bucket: Bucket,
    /// The public ports of the nodes, by seat.
    pub nodes: Vec<SocketAddr>,
    /// Makes values unique.
    pub values: AtomicU64,
    /// How many milliseconds a client waits between two calls.
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

/// What a request says beside what it is for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras<'a> {
    /// A session token.
    pub token: Option<&'a str>,
    /// The time to live of what is written, in seconds.
    pub ttl: Option<u64>,
    /// The type of what is written.
    pub content_type: Option<&'a str>,
    /// Whether the node's own replica will do for a read.
    pub eventual: bool,
}

/// A call, and what else its answer said.
#[derive(Debug)]
pub(super) struct Asked {
    pub record: Record,
    /// The session token.
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

    /// Calls, and writes it down.
    async fn call(&mut self, key: KeyName, action: Action, etag: Option<&str>) -> Record {
        let record = self.ask(key, action, etag).await;
        self.shared.ledger.record(key, record.clone());
        record
    }

    /// Calls.
    pub async fn ask(&mut self, key: KeyName, action: Action, etag: Option<&str>) -> Record {
        let asked = self.ask_with(key, action, etag, Extras::default());
        asked.await.record
    }

    /// Calls, and says more.
    pub async fn ask_with(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
        extras: Extras<'_>,
    ) -> Asked {
        let request = request(&self.shared.bucket, key, action, etag, extras);
        let start = self.shared.ledger.now();
        let reply = self.line.exchange(&request).await;
        let end = self.shared.ledger.now();
        let mut token = None;
        let (outcome, etag) = match reply {
            Reply::Answer(answer) => {
                token = answer.find_header("x-cloudkv-version").map(str::to_owned);
                self.understand(key, action, &answer)
            }
            Reply::NotSent => (Outcome::Nothing, None),
            Reply::Closed | Reply::Lost => (Outcome::Unknown, None),
        };
        // A DELETE has no ETag; of a client that brought no token, the token tells its version. That of
        // a read which found nothing names what is gone: no condition can ask for that.
        let tells = extras.token.is_none() && outcome == Outcome::Done;
        let alone = token.as_deref().filter(|_| tells);
        let of_token = || Some(Version::of_token(alone?)?.etag().into());
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
        answer: &Answer,
    ) -> (Outcome, Option<Box<str>>) {
        let etag = answer.find_header("etag").map(Box::from);
        let conditional = !matches!(action, Action::Get | Action::Put(_) | Action::Delete);
        let outcome = match (answer.status, action) {
            (200, Action::Get) => answer.text().trim().parse().ok().map(Outcome::Found),
            (404, Action::Get) if answer.error_code() == "not_found" => {
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
            let what = format!("client {number} at node {seat}, {key}, {action:?}: {answer:?}");
            self.shared.ledger.odd(what);
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
