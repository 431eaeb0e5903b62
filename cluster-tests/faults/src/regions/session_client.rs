//! Clients of keys that are written in all regions, and readers of other regions' keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::RegionsContext;
use super::region_call::RegionCall;
use crate::call_record::{Action, Outcome};
use crate::checker::ABSENT;
use crate::history::KeyName;
use crate::recording_client::{RecordingClient, RequestOptions};
use crate::version::Version;
use crate::workload::{self, Intent};
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
        let clients =
            seats.map(|seat| RecordingClient::new(&field.shared_keys, number, seat, seed));
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
            let (key, intent) = workload::next_call(&mut self.rng, generation);
            self.carry_out(key, intent).await;
            let pace = self.context.shared_keys.think_time_ms.clone();
            tokio::time::sleep(self.rng.millis(pace)).await;
        }
    }

    async fn carry_out(&mut self, key: KeyName, intent: Intent) {
        let value = self.context.shared_keys.new_value();
        if let Some(action) = intent.action(value) {
            self.call(key, action, None).await;
            return;
        }
        let (outcome, etag) = self.call(key, Action::Get, None).await;
        if let (Outcome::Read(was), Some(etag)) = (outcome, etag) {
            let action = intent.conditional_action(was, value);
            self.call(key, action, Some(&etag)).await;
        }
    }

    async fn call(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
    ) -> (Outcome, Option<Box<str>>) {
        let writes = action.written_value();
        let is_read = writes.is_none();
        let is_put = writes.is_some_and(|value| value != ABSENT);
        let ttl = (is_put && self.rng.chance_permille(TTL_WRITES_PERMILLE))
            .then(|| self.rng.range(TTL_SECS));
        let content_type = writes.map(|value| format!("text/x{}", value % 5));
        let eventual = is_read && self.rng.chance_permille(EVENTUAL_READS_PERMILLE);
        // A DELETE begins a new session: only then its response tells its version.
        let token = self.token.clone().filter(|_| is_read || is_put);
        let extras = RequestOptions {
            token: token.as_deref(),
            ttl,
            content_type: content_type.as_deref().filter(|_| is_put),
            is_eventual: eventual,
        };
        let seats = self.context.seats[self.region].clone();
        let seat = seats.start + self.rng.index(seats.len());
        let result = self.clients[seat]
            .send_with(key, action, etag, extras)
            .await;
        let record = result.record;
        let (outcome, etag) = (record.outcome, record.etag.clone());
        self.context.shared_keys.history.counts.count(outcome);
        if is_read && token.is_some() {
            let is_answered = matches!(outcome, Outcome::Read(_));
            let counter = if is_answered {
                &self.context.token_reads
            } else {
                &self.context.refused_token_reads
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let region_call = RegionCall {
            region: self.region,
            record,
            ttl,
            seen: token.as_ref().and_then(|_| self.seen.get(&key)).copied(),
            is_eventual: eventual,
        };
        if self.changes_region {
            self.remember(key, &region_call, token.is_some(), result.token);
        }
        self.context.shared_calls.add(key, region_call);
        (outcome, etag)
    }

    /// Records the session's token, and the version that it covers.
    fn remember(
        &mut self,
        key: KeyName,
        call: &RegionCall,
        is_continued: bool,
        token: Option<String>,
    ) {
        let (Some(token), Some(version)) = (token, call.version()) else {
            return;
        };
        if !is_continued || self.seen.len() > MAX_SESSION_KEYS {
            self.seen.clear();
        }
        self.token = Some(token);
        let seen = self.seen.entry(key).or_insert(version);
        *seen = version.max(*seen);
    }
}

/// Reads keys that other regions write, until the run is stopped.
pub(super) async fn read_other_regions(
    context: Arc<RegionsContext>,
    number: u32,
    region: usize,
    seed: u64,
) {
    let mut rng = Rng::derived(seed, u64::from(number));
    let new_clients = |shared| {
        let seats = context.seats[region].clone();
        let clients = seats.map(|seat| RecordingClient::new(shared, number, seat, seed));
        clients.collect::<Vec<_>>()
    };
    let shared = context.remote_readers.iter().map(|(shared, _)| shared);
    let mut clients: Vec<Vec<RecordingClient>> = shared.map(new_clients).collect();
    while !context.is_stopped() {
        let region_count = context.region_count();
        let owner =
            (region + 1 + rng.index(region_count.saturating_sub(1).max(1))) % region_count.max(1);
        if owner != region {
            let readable = context.readable_generations(owner);
            let generation = rng.range(*readable.start()..*readable.end() + 1);
            let (key, _) = workload::next_call(&mut rng, generation);
            let node = rng.index(clients[owner].len());
            let record = clients[owner][node].send(key, Action::Get, None).await;
            let (shared, visits) = &context.remote_readers[owner];
            shared.history.counts.count(record.outcome);
            visits.add(key, RegionCall::without_session(region, record));
        }
        tokio::time::sleep(rng.millis(context.shared_keys.think_time_ms.clone())).await;
    }
}
