//! Clients of keys that are written in all regions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::RegionsContext;
use super::region_call::RegionCall;
use crate::batch::BatchOperation;
use crate::call_record::{Action, CallRecord, Outcome};
use crate::checker::Effect;
use crate::history::KeyName;
use crate::key_list::KeyList;
use crate::recording_client::RecordingClient;
use crate::request::RequestOptions;
use crate::version::Version;
use crate::workload::{Intent, PlannedBatch, Step};
use crate::workload_client::present_contents;
use cloudkv_test_harness::rng::Rng;

/// Number of a session client's calls that move to another region, in permille.
const REGION_CHANGES_PERMILLE: u64 = 300;

/// Number of writes with a time to live, in permille, and its range in seconds.
const TTL_WRITES_PERMILLE: u64 = 250;
const TTL_SECS: std::ops::Range<u64> = 1..7;

/// Number of reads that accept the node's own replica, in permille.
const EVENTUAL_READS_PERMILLE: u64 = 100;

/// Maximum number of keys that a session remembers; beyond it a new session begins.
const MAX_SESSION_KEYS: usize = 2000;

/// A client of shared keys: it stays in a region, or carries its session to others.
pub(super) struct SessionClient {
    context: Arc<RegionsContext>,
    /// Clients by seat.
    clients: Vec<RecordingClient>,
    region: usize,
    changes_region: bool,
    rng: Rng,
    /// The session: its token, and the newest version that it covers, by key.
    token: Option<String>,
    seen: HashMap<KeyName, Version>,
}

impl SessionClient {
    /// Creates a client that begins in this region.
    pub(super) fn new(
        field: &Arc<RegionsContext>,
        number: u32,
        region: usize,
        changes_region: bool,
        seed: u64,
    ) -> Self {
        let seats = 0..field.shared_keys.nodes.len();
        let clients = seats.map(|seat| RecordingClient::new(&field.shared_keys, number, seat));
        Self {
            context: field.clone(),
            clients: clients.collect(),
            region,
            changes_region,
            rng: Rng::derived(seed, u64::from(number)),
            token: None,
            seen: HashMap::new(),
        }
    }

    /// Calls until the run is stopped.
    pub(super) async fn run(mut self) {
        while !self.context.is_stopped() {
            if self.changes_region && self.rng.chance_permille(REGION_CHANGES_PERMILLE) {
                self.region = self.rng.index(self.context.region_count());
            }
            let generation = self.context.shared_generation();
            let has_new_calls = self.context.shared_keys.has_new_calls();
            match Step::draw(&mut self.rng, generation, has_new_calls) {
                Step::Call(key, intent) => self.carry_out(key, intent).await,
                Step::Batch(batch) => self.carry_out_batch(batch).await,
                Step::List(list) => self.list(&list).await,
            }
            let pace = self.context.shared_keys.think_time_ms.clone();
            tokio::time::sleep(self.rng.millis(pace)).await;
        }
    }

    async fn carry_out(&mut self, key: KeyName, intent: Intent) {
        let content = self.context.shared_keys.new_content();
        if let Some(action) = intent.action(content) {
            self.call(key, action, None).await;
            return;
        }
        let (outcome, etag) = self.call(key, Action::Get, None).await;
        if let (Outcome::Read(was), Some(etag)) = (outcome, etag) {
            let action = intent.conditional_action(was, content);
            self.call(key, action, Some(&etag)).await;
        }
    }

    async fn call(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
    ) -> (Outcome, Option<Box<str>>) {
        let is_read = action.effect() == Effect::Nothing;
        let (ttl, content_type) = self.draw_put_options(action);
        let eventual = is_read && self.rng.chance_permille(EVENTUAL_READS_PERMILLE);
        // A DELETE begins a new session: only then its response tells its version.
        let is_delete = action.effect() == Effect::Delete;
        let token = self.token.clone().filter(|_| !is_delete);
        let options = RequestOptions {
            token: token.as_deref(),
            ttl,
            content_type: content_type.as_deref(),
            is_eventual: eventual,
        };
        let seat = self.draw_seat();
        let result = self.clients[seat]
            .send_with(key, action, etag, options)
            .await;
        let record = result.record;
        let (outcome, etag) = (record.outcome, record.etag.clone());
        let region_call = RegionCall {
            region: self.region,
            record,
            ttl,
            seen: token.as_ref().and_then(|_| self.seen.get(&key)).copied(),
            is_eventual: eventual,
        };
        self.count(&region_call.record, token.is_some());
        if self.changes_region {
            self.remember([(key, &region_call)], token.is_some(), result.token);
        }
        self.context.shared_calls.add(key, region_call);
        (outcome, etag)
    }

    /// Carries out a batch in the session, and the batch of reads before it that conditions need.
    async fn carry_out_batch(&mut self, batch: PlannedBatch) {
        let reads = batch.reads();
        let mut present = HashMap::new();
        if !reads.is_empty() {
            let records = self.call_batch(&reads).await;
            present = present_contents(&records);
        }
        let context = self.context.clone();
        let mut operations = batch.operations(&present, || context.shared_keys.new_content());
        for operation in &mut operations {
            (operation.ttl, operation.content_type) = self.draw_put_options(operation.action);
        }
        self.call_batch(&operations).await;
    }

    async fn call_batch(&mut self, operations: &[BatchOperation]) -> Vec<(KeyName, CallRecord)> {
        let token = self.token.clone();
        let seat = self.draw_seat();
        let result = self.clients[seat]
            .send_batch(operations, token.as_deref())
            .await;
        let calls = result.records.iter().zip(operations);
        let calls = calls.map(|((key, record), operation)| {
            let call = RegionCall {
                region: self.region,
                record: record.clone(),
                ttl: operation.ttl,
                seen: token.as_ref().and_then(|_| self.seen.get(key)).copied(),
                is_eventual: false,
            };
            (*key, call)
        });
        let calls: Vec<(KeyName, RegionCall)> = calls.collect();
        for (_, call) in &calls {
            self.count(&call.record, token.is_some());
        }
        if self.changes_region {
            let observed = calls.iter().map(|(key, call)| (*key, call));
            self.remember(observed, token.is_some(), result.token);
        }
        for (key, call) in calls {
            self.context.shared_calls.add(key, call);
        }
        result.records
    }

    /// Lists keys, outside of the session: lists have no token.
    async fn list(&mut self, list: &KeyList) {
        let seat = self.draw_seat();
        let reads = self.clients[seat].list(list).await;
        for (key, record) in reads.into_iter().flatten() {
            self.count(&record, false);
            let call = RegionCall::without_session(self.region, record);
            self.context.shared_calls.add(key, call);
        }
    }

    /// Draws the time to live and returns the content type of a put; none for other calls.
    fn draw_put_options(&mut self, action: Action) -> (Option<u64>, Option<String>) {
        let Effect::Put(content) = action.effect() else {
            return (None, None);
        };
        let ttl = self
            .rng
            .chance_permille(TTL_WRITES_PERMILLE)
            .then(|| self.rng.range(TTL_SECS));
        (ttl, Some(format!("text/x{}", content.value % 5)))
    }

    /// Draws a node of the region.
    fn draw_seat(&mut self) -> usize {
        let seats = self.context.seats[self.region].clone();
        seats.start + self.rng.index(seats.len())
    }

    fn count(&self, record: &CallRecord, has_token: bool) {
        self.context.shared_keys.history.counts.count(record);
        if has_token && record.action.effect() == Effect::Nothing {
            let is_answered = matches!(record.outcome, Outcome::Read(_));
            let counter = if is_answered {
                &self.context.token_reads
            } else {
                &self.context.refused_token_reads
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records the session's token, and the versions that it covers: of the calls of one request.
    fn remember<'a>(
        &mut self,
        calls: impl IntoIterator<Item = (KeyName, &'a RegionCall)>,
        is_continued: bool,
        token: Option<String>,
    ) {
        let calls = calls.into_iter();
        let versions = calls.filter_map(|(key, call)| Some((key, call.version()?)));
        let versions: Vec<(KeyName, Version)> = versions.collect();
        let Some(token) = token.filter(|_| !versions.is_empty()) else {
            return;
        };
        if !is_continued || self.seen.len() > MAX_SESSION_KEYS {
            self.seen.clear();
        }
        self.token = Some(token);
        for (key, version) in versions {
            let seen = self.seen.entry(key).or_insert(version);
            *seen = version.max(*seen);
        }
    }
}
