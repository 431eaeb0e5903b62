//! State that all parts of a run over several regions share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::judge;
use super::visit::{Origin, Visit, Visits};
use crate::faults::call::Record;
use crate::faults::client::Shared;
use crate::faults::ledger::{KeyName, Ledger, Tally};
use crate::harness::Bucket;
use crate::region::World;

/// Pause of a client between two calls, in milliseconds. The load exists for the checks and not for
/// measurements, and regions without processor time for each other never converge.
const PACE: std::ops::Range<u64> = 1..30;

/// Time for which a set of shared keys is used, in seconds: long enough for a partition to begin
/// and to end.
const SHARED_FOR: u64 = 20;

/// Number of generations before the present one that other regions read.
const READ_BACK: u64 = 3;

/// Buckets of a run, the calls on them, and counters.
#[derive(Debug)]
pub(super) struct Field {
    started: Instant,
    pub origin: Origin,
    /// Seats of each region's nodes.
    pub seats: Vec<std::ops::Range<usize>>,
    /// Keys of each region that are written there alone, for its own clients.
    pub homes: Vec<Arc<Shared>>,
    /// The same keys for clients in other regions, and the calls of these.
    pub abroad: Vec<(Arc<Shared>, Visits)>,
    /// Keys that are written in all regions, and the calls on them.
    pub common: Arc<Shared>,
    pub visits: Visits,
    /// Number of regions that have clients.
    pub regions: AtomicU64,
    /// Number of reads with a session token that succeeded, and of those that were refused or
    /// failed.
    pub with_token: AtomicU64,
    pub refused: AtomicU64,
    /// Number of calls in histories that passed.
    pub judged: AtomicU64,
    pub stop: AtomicBool,
}

impl Field {
    /// Creates the buckets.
    pub async fn start(cluster: &World, regions: usize) -> Arc<Self> {
        let started = Instant::now();
        let origin = Origin::now();
        let api = cluster.api(0);
        let new_bucket = async || api.bucket_with(&[("plan", "pro")]).await;
        let mut homes = vec![];
        let mut abroad = vec![];
        let all = || (0..cluster.members.len()).collect::<Vec<_>>();
        for region in 0..regions {
            let bucket = new_bucket().await;
            let own_seats = cluster.seats(region).collect();
            homes.push(shared(cluster, started, bucket.clone(), own_seats));
            let elsewhere = shared(cluster, started, bucket, all());
            abroad.push((elsewhere, Visits::default()));
        }
        let common = shared(cluster, started, new_bucket().await, all());
        Arc::new(Self {
            started,
            origin,
            seats: (0..regions).map(|region| cluster.seats(region)).collect(),
            homes,
            abroad,
            common,
            visits: Visits::default(),
            regions: AtomicU64::new(0),
            with_token: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            judged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Returns the number of regions that have clients; they are the first ones.
    pub fn regions(&self) -> usize {
        usize::try_from(self.regions.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Returns true if the run is to end: it is over, or a key has failed.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.homes.iter().any(|keys| keys.stopped())
    }

    pub fn stop_all(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for keys in &self.homes {
            keys.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Returns nanoseconds since the run's start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the generation of shared keys that is used now.
    pub fn shared_generation(&self) -> u64 {
        self.started.elapsed().as_secs() / SHARED_FOR
    }

    /// Returns the generations of a region's own keys that other regions read now.
    pub fn readable(&self, region: usize) -> std::ops::RangeInclusive<u64> {
        let now = self.homes[region].ledger.generation();
        now.saturating_sub(READ_BACK)..=now
    }

    /// Checks all regions' calls on a key that one region owns.
    pub fn judge_home(&self, region: usize, key: KeyName, records: &[Record]) -> Result<(), String> {
        let own_calls = records
            .iter()
            .map(|record| Visit::plain(region, record.clone()));
        let mut calls: Vec<Visit> = own_calls.collect();
        calls.append(&mut self.abroad[region].1.take(key));
        self.judged
            .fetch_add(calls.len() as u64, Ordering::Relaxed);
        judge::judge(&calls, self.origin, None)
            .map_err(|reason| format!("{reason}\nin all regions:\n{}", judge::history(&calls)))
    }

    /// Returns all histories of the run.
    fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let abroad = self.abroad.iter().map(|(shared, _)| shared);
        let all = self.homes.iter().chain(abroad).chain([&self.common]);
        all.map(|shared| &shared.ledger)
    }

    /// Returns the number of all calls by outcome.
    pub fn tally(&self) -> Tally {
        Tally::sum(self.ledgers().map(|history| &history.tally))
    }

    /// Returns the responses that no client should have got.
    pub fn odd_answers(&self) -> Vec<String> {
        self.ledgers().flat_map(Ledger::odd_answers).collect()
    }

    /// Returns the buckets in which all regions must converge.
    pub fn buckets(&self) -> Vec<Bucket> {
        let all = self.homes.iter().chain([&self.common]);
        all.map(|shared| shared.bucket.clone()).collect()
    }

    /// Takes the calls on shared keys.
    pub fn take_visits(&self) -> HashMap<KeyName, Vec<Visit>> {
        self.visits.take_all()
    }
}

fn shared(cluster: &World, started: Instant, bucket: Bucket, seats: Vec<usize>) -> Arc<Shared> {
    Arc::new(Shared {
        ledger: Ledger::since(started),
        bucket,
        nodes: seats.iter().map(|seat| cluster.seat(*seat).http()).collect(),
        values: AtomicU64::new(0),
        pace: PACE,
        stop: AtomicBool::new(false),
    })
}
