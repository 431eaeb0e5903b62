//! Clients of keys that are written in all regions, and readers of other regions' keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::field::Field;
use super::visit::Visit;
use crate::checker::ABSENT;
use crate::faults::call::{Action, Outcome};
use crate::faults::client::{Client, Extras};
use crate::faults::ledger::KeyName;
use crate::faults::version::Version;
use crate::faults::workload::{self, Intent};
use crate::rng::Rng;

/// Number of a session client's calls that move to another region, in permille.
const HOPS: u64 = 300;

/// Number of writes with a time to live, in permille, and its range in seconds.
const EXPIRING: u64 = 250;
const TTL: std::ops::Range<u64> = 1..7;

/// Number of reads that accept the node's own replica, in permille.
const EVENTUAL: u64 = 100;

/// Maximum number of keys that a session remembers; beyond it a new session begins.
const REMEMBERED: usize = 2000;

/// A client of shared keys: it stays in a region, or carries its session to others.
pub(super) struct Traveller {
    field: Arc<Field>,
    /// Clients by seat.
    clients: Vec<Client>,
    region: usize,
    travels: bool,
    rng: Rng,
    /// The session: its token, and the newest version that it covers, by key.
    token: Option<String>,
    seen: HashMap<KeyName, Version>,
}

impl Traveller {
    /// Creates a client that begins in this region.
    pub fn new(field: &Arc<Field>, number: u32, region: usize, travels: bool, seed: u64) -> Self {
        let seats = 0..field.common.nodes.len();
        let clients = seats.map(|seat| Client::new(&field.common, number, seat, seed));
        Self {
            field: field.clone(),
            clients: clients.collect(),
            region,
            travels,
            rng: Rng::branch(seed, u64::from(number)),
            token: None,
            seen: HashMap::new(),
        }
    }

    /// Calls until the run is stopped.
    pub async fn run(mut self) {
        while !self.field.stopped() {
            if self.travels && self.rng.permille(HOPS) {
                self.region = self.rng.index(self.field.regions());
            }
            let generation = self.field.shared_generation();
            let (key, intent) = workload::next(&mut self.rng, generation);
            self.carry_out(key, intent).await;
            let pace = self.field.common.pace.clone();
            tokio::time::sleep(self.rng.millis(pace)).await;
        }
    }

    async fn carry_out(&mut self, key: KeyName, intent: Intent) {
        let value = self.field.common.new_value();
        let action = match intent {
            Intent::Get => Action::Get,
            Intent::Put => Action::Put(value),
            Intent::Delete => Action::Delete,
            Intent::Create => Action::Create(value),
            Intent::Swap | Intent::DeleteThat => {
                let (outcome, etag) = self.call(key, Action::Get, None).await;
                let (Outcome::Found(was), Some(etag)) = (outcome, etag) else {
                    return;
                };
                let action = match intent {
                    Intent::Swap => Action::Swap { was, value },
                    _ => Action::DeleteThat(was),
                };
                self.call(key, action, Some(&etag)).await;
                return;
            }
        };
        self.call(key, action, None).await;
    }

    async fn call(
        &mut self,
        key: KeyName,
        action: Action,
        etag: Option<&str>,
    ) -> (Outcome, Option<Box<str>>) {
        let writes = action.writes();
        let is_read = writes.is_none();
        let is_put = writes.is_some_and(|value| value != ABSENT);
        let ttl = (is_put && self.rng.permille(EXPIRING)).then(|| self.rng.within(TTL));
        let content_type = writes.map(|value| format!("text/x{}", value % 5));
        let eventual = is_read && self.rng.permille(EVENTUAL);
        // A DELETE begins a new session: only then its response tells its version.
        let token = self.token.clone().filter(|_| is_read || is_put);
        let extras = Extras {
            token: token.as_deref(),
            ttl,
            content_type: content_type.as_deref().filter(|_| is_put),
            eventual,
        };
        let seats = self.field.seats[self.region].clone();
        let seat = seats.start + self.rng.index(seats.len());
        let result = self.clients[seat].ask_with(key, action, etag, extras).await;
        let record = result.record;
        let (outcome, etag) = (record.outcome, record.etag.clone());
        self.field.common.ledger.tally.count(outcome);
        if is_read && token.is_some() {
            let is_answered = matches!(outcome, Outcome::Found(_));
            let counter = if is_answered {
                &self.field.with_token
            } else {
                &self.field.refused
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let region_call = Visit {
            region: self.region,
            record,
            ttl,
            seen: token.as_ref().and_then(|_| self.seen.get(&key)).copied(),
            eventual,
        };
        if self.travels {
            self.remember(key, &region_call, token.is_some(), result.token);
        }
        self.field.visits.add(key, region_call);
        (outcome, etag)
    }

    /// Records the session's token, and the version that it covers.
    fn remember(&mut self, key: KeyName, call: &Visit, is_continued: bool, token: Option<String>) {
        let (Some(token), Some(version)) = (token, call.version()) else {
            return;
        };
        if !is_continued || self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        self.token = Some(token);
        let seen = self.seen.entry(key).or_insert(version);
        *seen = version.max(*seen);
    }
}

/// Reads keys that other regions write, until the run is stopped.
pub(super) async fn read_abroad(context: Arc<Field>, number: u32, region: usize, seed: u64) {
    let mut rng = Rng::branch(seed, u64::from(number));
    let new_clients = |shared| {
        let seats = context.seats[region].clone();
        let clients = seats.map(|seat| Client::new(shared, number, seat, seed));
        clients.collect::<Vec<_>>()
    };
    let shared = context.abroad.iter().map(|(shared, _)| shared);
    let mut clients: Vec<Vec<Client>> = shared.map(new_clients).collect();
    while !context.stopped() {
        let region_count = context.regions();
        let owner = (region + 1 + rng.index(region_count.saturating_sub(1).max(1))) % region_count.max(1);
        if owner != region {
            let readable = context.readable(owner);
            let generation = rng.within(*readable.start()..*readable.end() + 1);
            let (key, _) = workload::next(&mut rng, generation);
            let node = rng.index(clients[owner].len());
            let record = clients[owner][node].ask(key, Action::Get, None).await;
            let (shared, visits) = &context.abroad[owner];
            shared.ledger.tally.count(record.outcome);
            visits.add(key, Visit::plain(region, record));
        }
        tokio::time::sleep(rng.millis(context.common.pace.clone())).await;
    }
}
