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

/// Of 1000 calls of a client that travels, how many are the first in another region.
const HOPS: u64 = 300;

/// Of 1000 writes, how many have a time to live; and that, in seconds.
const EXPIRING: u64 = 250;
const TTL: std::ops::Range<u64> = 1..7;

/// Of 1000 reads, how many are content with the node's own replica.
const EVENTUAL: u64 = 100;

/// Keys that a session remembers at most; then it begins anew.
const REMEMBERED: usize = 2000;

/// A client of shared keys: one that stays in a region, or one that takes its session to others.
pub(super) struct Traveller {
    field: Arc<Field>,
    /// By seat.
    clients: Vec<Client>,
    region: usize,
    travels: bool,
    rng: Rng,
    /// The session: its token, and the newest version that it covers, by key.
    token: Option<String>,
    seen: HashMap<KeyName, Version>,
}

impl Traveller {
    /// A client that begins in this region.
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
                let (found, etag) = self.call(key, Action::Get, None).await;
                let (Outcome::Found(was), Some(etag)) = (found, etag) else {
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
        let reads = writes.is_none();
        let puts = writes.is_some_and(|value| value != ABSENT);
        let ttl = (puts && self.rng.permille(EXPIRING)).then(|| self.rng.within(TTL));
        let content_type = writes.map(|value| format!("text/x{}", value % 5));
        let eventual = reads && self.rng.permille(EVENTUAL);
        // A DELETE begins a new session: that is how its version is told.
        let token = self.token.clone().filter(|_| reads || puts);
        let extras = Extras {
            token: token.as_deref(),
            ttl,
            content_type: content_type.as_deref().filter(|_| puts),
            eventual,
        };
        let seats = self.field.seats[self.region].clone();
        let seat = seats.start + self.rng.index(seats.len());
        let asked = self.clients[seat].ask_with(key, action, etag, extras).await;
        let record = asked.record;
        let (outcome, etag) = (record.outcome, record.etag.clone());
        self.field.common.ledger.tally.count(outcome);
        if reads && token.is_some() {
            let answered = matches!(outcome, Outcome::Found(_));
            let counter = if answered {
                &self.field.with_token
            } else {
                &self.field.refused
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let visit = Visit {
            region: self.region,
            record,
            ttl,
            seen: token.as_ref().and_then(|_| self.seen.get(&key)).copied(),
            eventual,
        };
        if self.travels {
            self.remember(key, &visit, token.is_some(), asked.token);
        }
        self.field.visits.add(key, visit);
        (outcome, etag)
    }

    /// Notes the session's token, and what it covers.
    fn remember(&mut self, key: KeyName, visit: &Visit, went_on: bool, token: Option<String>) {
        let (Some(token), Some(version)) = (token, visit.version()) else {
            return;
        };
        if !went_on || self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        self.token = Some(token);
        let seen = self.seen.entry(key).or_insert(version);
        *seen = version.max(*seen);
    }
}

/// Reads keys that other regions write, until the run is stopped.
pub(super) async fn read_abroad(field: Arc<Field>, number: u32, region: usize, seed: u64) {
    let mut rng = Rng::branch(seed, u64::from(number));
    let new_clients = |shared| {
        let seats = field.seats[region].clone();
        let clients = seats.map(|seat| Client::new(shared, number, seat, seed));
        clients.collect::<Vec<_>>()
    };
    let shared = field.abroad.iter().map(|(shared, _)| shared);
    let mut clients: Vec<Vec<Client>> = shared.map(new_clients).collect();
    while !field.stopped() {
        let homes = field.regions();
        let home = (region + 1 + rng.index(homes.saturating_sub(1).max(1))) % homes.max(1);
        if home != region {
            let readable = field.readable(home);
            let generation = rng.within(*readable.start()..*readable.end() + 1);
            let (key, _) = workload::next(&mut rng, generation);
            let node = rng.index(clients[home].len());
            let record = clients[home][node].ask(key, Action::Get, None).await;
            let (shared, visits) = &field.abroad[home];
            shared.ledger.tally.count(record.outcome);
            visits.add(key, Visit::plain(region, record));
        }
        tokio::time::sleep(rng.millis(field.common.pace.clone())).await;
    }
}
