//! A client that records its calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::answer::Answer;
use super::batch::{self, BatchOperation};
use super::call_record::{Action, CallRecord, Outcome};
use super::checker::{BatchPosition, Content, WriteId};
use super::history::{History, KeyName};
use super::key_list::KeyList;
use super::request::{RequestOptions, build_request};
use super::version::Version;
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::{Bucket, HttpResponse};

/// Time for a response; after it a write's outcome is unknown.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// State that all clients of a run share.
#[derive(Debug)]
pub(super) struct ClientContext {
    pub history: History,
    pub bucket: Bucket,
    /// Public addresses of the nodes, by seat.
    pub nodes: Vec<SocketAddr>,
    /// Number of the last write or batch.
    pub last_write: AtomicU64,
    /// Pause of a client between two calls, in milliseconds.
    pub think_time_ms: std::ops::Range<u64>,
    /// True if clients use what only nodes of feature level 2 know: batches, touches, metadata, and
    /// lists with values.
    pub has_new_calls: AtomicBool,
    pub stop: AtomicBool,
}

impl ClientContext {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn has_new_calls(&self) -> bool {
        self.has_new_calls.load(Ordering::Relaxed)
    }

    fn new_write(&self) -> WriteId {
        self.last_write.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the content of a new put: half of them have metadata.
    pub(super) fn new_content(&self) -> Content {
        let write = self.new_write();
        if self.has_new_calls() && write.is_multiple_of(2) {
            Content::with_metadata(write)
        } else {
            Content::plain(write)
        }
    }
}

/// A call's record and the session token of its response.
#[derive(Debug)]
pub(super) struct CallResult {
    pub record: CallRecord,
    /// Session token.
    pub token: Option<String>,
}

/// Records of a batch's operations and the session token of its response.
#[derive(Debug)]
pub(super) struct BatchResult {
    pub records: Vec<(KeyName, CallRecord)>,
    /// Session token.
    pub token: Option<String>,
}

/// Outcome of a call and the version that it shows.
type Observation = (Outcome, Option<Box<str>>);

/// A client of one node.
#[derive(Debug)]
pub(super) struct RecordingClient {
    shared: Arc<ClientContext>,
    number: u32,
    seat: usize,
    connection: NodeConnection,
}

impl RecordingClient {
    pub(super) fn new(shared: &Arc<ClientContext>, number: u32, seat: usize) -> Self {
        Self {
            shared: shared.clone(),
            number,
            seat,
            connection: NodeConnection::new(shared.nodes[seat], RESPONSE_TIMEOUT),
        }
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
        options: RequestOptions<'_>,
    ) -> CallResult {
        let request = build_request(&self.shared.bucket, key, action, etag, options);
        let start = self.shared.history.now();
        let sent = self.connection.exchange(&request).await;
        let end = self.shared.history.now();
        let mut token = None;
        let (outcome, etag) = match sent {
            ExchangeOutcome::Response(response) => {
                token = session_token(&response);
                let answer = Answer::of_response(&response);
                let outcome = answer.outcome(action).unwrap_or_else(|| {
                    self.record_anomaly(&format!("{key}, {action:?}: {response:?}"));
                    Outcome::Unknown
                });
                (outcome, answer.etag)
            }
            ExchangeOutcome::NotSent => (Outcome::NotDone, None),
            ExchangeOutcome::Closed | ExchangeOutcome::Lost => (Outcome::Unknown, None),
        };
        // A DELETE has no ETag; if the request carried no token, the response's token holds its
        // version. The token of a read that found nothing names the deleted version: no condition
        // can require that.
        let has_own_version = options.token.is_none() && outcome == Outcome::Written;
        let own_token = token.as_deref().filter(|_| has_own_version);
        let of_token = || Some(Version::from_token(own_token?)?.etag().into());
        let observation = (outcome, etag.or_else(of_token));
        let record = self.record((start, end), action, observation, None);
        CallResult { record, token }
    }

    /// Sends a batch, without adding its operations to the history. Each is a call of its own in
    /// the batch's time.
    pub(super) async fn send_batch(
        &mut self,
        operations: &[BatchOperation],
        token: Option<&str>,
    ) -> BatchResult {
        let request = batch::build_request(&self.shared.bucket, operations, token);
        let start = self.shared.history.now();
        let sent = self.connection.exchange(&request).await;
        let times = (start, self.shared.history.now());
        let mut token = None;
        let all =
            |outcome: Outcome| -> Vec<Observation> { vec![(outcome, None); operations.len()] };
        let observations = match sent {
            ExchangeOutcome::Response(response) => {
                token = session_token(&response);
                match response.status {
                    503 => all(Outcome::NotDone),
                    504 => all(Outcome::Unknown),
                    _ => self.read_answer(operations, &response),
                }
            }
            ExchangeOutcome::NotSent => all(Outcome::NotDone),
            ExchangeOutcome::Closed | ExchangeOutcome::Lost => all(Outcome::Unknown),
        };
        let positions = batch::positions(self.shared.new_write(), operations);
        let parts = operations.iter().zip(observations).zip(positions);
        let records = parts.map(|((operation, observation), position)| {
            let record = self.record(times, operation.action, observation, Some(position));
            (operation.key, record)
        });
        BatchResult {
            records: records.collect(),
            token,
        }
    }

    /// Returns the outcome of each operation of a batch. Of an answer that no client should get it
    /// isn't known what was done.
    fn read_answer(
        &self,
        operations: &[BatchOperation],
        response: &HttpResponse,
    ) -> Vec<Observation> {
        let answers = std::str::from_utf8(&response.body)
            .ok()
            .filter(|_| response.status == 200)
            .and_then(|body| batch::parse_answers(body, operations));
        let Some(answers) = answers else {
            self.record_anomaly(&format!("a batch of {operations:?}: {response:?}"));
            return vec![(Outcome::Unknown, None); operations.len()];
        };
        let observations = operations.iter().zip(answers).map(|(operation, answer)| {
            let outcome = answer.outcome(operation.action).unwrap_or_else(|| {
                self.record_anomaly(&format!("{operation:?} of a batch: {response:?}"));
                Outcome::Unknown
            });
            (outcome, answer.etag)
        });
        observations.collect()
    }

    /// Lists keys with their values, without adding the reads to the history. Returns a read of
    /// each key that the list shows; `None` if there was no answer.
    pub(super) async fn list(&mut self, list: &KeyList) -> Option<Vec<(KeyName, CallRecord)>> {
        let request = list.build_request(&self.shared.bucket);
        let start = self.shared.history.now();
        let sent = self.connection.exchange(&request).await;
        let times = (start, self.shared.history.now());
        let ExchangeOutcome::Response(response) = sent else {
            return None;
        };
        let listed = match response.status {
            200 => list.parse(&response.json()),
            404 if response.error_code() == "not_found" => Some(list.all_absent()),
            503 | 504 => return None,
            _ => None,
        };
        if listed.is_none() {
            self.record_anomaly(&format!("a list of {}: {response:?}", list.prefix));
        }
        let reads = listed?.into_iter().map(|listed| {
            let observation = (Outcome::Read(listed.content), listed.etag);
            let record = self.record(times, Action::Get, observation, None);
            (listed.key, record)
        });
        Some(reads.collect())
    }

    fn record(
        &self,
        (start, end): (u64, u64),
        action: Action,
        (outcome, etag): Observation,
        batch: Option<BatchPosition>,
    ) -> CallRecord {
        CallRecord {
            client: self.number,
            seat: self.seat,
            start,
            end,
            action,
            outcome,
            etag,
            batch,
        }
    }

    fn record_anomaly(&self, anomaly: &str) {
        let (number, seat) = (self.number, self.seat);
        let anomaly = format!("client {number} at node {seat}, {anomaly}");
        self.shared.history.record_anomaly(anomaly);
    }
}

fn session_token(response: &HttpResponse) -> Option<String> {
    let token = response.find_header("x-cloudkv-version");
    token.map(str::to_owned)
}
