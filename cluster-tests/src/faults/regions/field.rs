//! What all parts of a run over several regions have in common.

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

/// How many milliseconds clients wait between two calls: the load is there to be seen wrong, not to
/// measure, and regions that have no processor left for each other never agree.
const PACE: std::ops::Range<u64> = 1..30;

/// How long shared keys are used, in seconds: long enough for a cut to begin and to end.
const SHARED_FOR: u64 = 20;

/// How many of the generations before the present one other regions read.
const READ_BACK: u64 = 3;

/// Buckets, what was done with them, and what is counted.
#[derive(Debug)]
pub(super) struct Field {
    started: Instant,
    pub origin: Origin,
    /// By region, the seats of its nodes.
    pub seats: Vec<std::ops::Range<usize>>,
    /// By region, keys that are written there alone, for its own clients.
    pub homes: Vec<Arc<Shared>>,
    /// The same for clients elsewhere, and what these saw.
    pub abroad: Vec<(Arc<Shared>, Visits)>,
    /// Keys that are written in all regions, and what was done with them.
    pub common: Arc<Shared>,
    pub visits: Visits,
    /// Regions that have clients.
    pub regions: AtomicU64,
    /// Reads with a session token that were answered, and those that were refused or failed.
    pub with_token: AtomicU64,
    pub refused: AtomicU64,
    /// Calls in histories that were found right.
    pub judged: AtomicU64,
    pub stop: AtomicBool,
}

impl Field {
    /// Makes the buckets.
    pub async fn start(world: &World, regions: usize) -> Arc<Self> {
        let started = Instant::now();
        let origin = Origin::now();
        let api = world.api(0);
        let new_bucket = async || api.bucket_with(&[("plan", "pro")]).await;
        let mut homes = vec![];
        let mut abroad = vec![];
        let all = || (0..world.members.len()).collect::<Vec<_>>();
        for region in 0..regions {
            let bucket = new_bucket().await;
            let own = world.seats(region).collect();
            homes.push(shared(world, started, bucket.clone(), own));
            let elsewhere = shared(world, started, bucket, all());
            abroad.push((elsewhere, Visits::default()));
        }
        let common = shared(world, started, new_bucket().await, all());
        Arc::new(Self {
            started,
            origin,
            seats: (0..regions).map(|region| world.seats(region)).collect(),
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

    /// How many regions have clients, the first ones.
    pub fn regions(&self) -> usize {
        usize::try_from(self.regions.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether the run is to end: it is over, or a key has failed.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.homes.iter().any(|home| home.stopped())
    }

    pub fn stop_all(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for home in &self.homes {
            home.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Nanoseconds since the run's start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The generation of shared keys that is used now.
    pub fn shared_generation(&self) -> u64 {
        self.started.elapsed().as_secs() / SHARED_FOR
    }

    /// The generations of a home's keys that are read elsewhere now.
    pub fn readable(&self, home: usize) -> std::ops::RangeInclusive<u64> {
        let now = self.homes[home].ledger.generation();
        now.saturating_sub(READ_BACK)..=now
    }

    /// Judges what all regions saw of a key of one home.
    pub fn judge_home(&self, home: usize, key: KeyName, records: &[Record]) -> Result<(), String> {
        let own = records
            .iter()
            .map(|record| Visit::plain(home, record.clone()));
        let mut visits: Vec<Visit> = own.collect();
        visits.append(&mut self.abroad[home].1.take(key));
        self.judged
            .fetch_add(visits.len() as u64, Ordering::Relaxed);
        judge::judge(&visits, self.origin, None)
            .map_err(|why| format!("{why}\nin all regions:\n{}", judge::history(&visits)))
    }

    /// All ledgers of the run.
    fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let abroad = self.abroad.iter().map(|(shared, _)| shared);
        let all = self.homes.iter().chain(abroad).chain([&self.common]);
        all.map(|shared| &shared.ledger)
    }

    /// What became of all calls.
    pub fn tally(&self) -> Tally {
        Tally::sum(self.ledgers().map(|ledger| &ledger.tally))
    }

    /// Answers that no client should have got.
    pub fn odd_answers(&self) -> Vec<String> {
        self.ledgers().flat_map(Ledger::odd_answers).collect()
    }

    /// The buckets whose keys all regions must come to hold.
    pub fn buckets(&self) -> Vec<Bucket> {
        let all = self.homes.iter().chain([&self.common]);
        all.map(|shared| shared.bucket.clone()).collect()
    }

    /// What was done with shared keys.
    pub fn take_visits(&self) -> HashMap<KeyName, Vec<Visit>> {
        self.visits.take_all()
    }
}

fn shared(world: &World, started: Instant, bucket: Bucket, seats: Vec<usize>) -> Arc<Shared> {
    Arc::new(Shared {
        ledger: Ledger::since(started),
        bucket,
        nodes: seats.iter().map(|seat| world.seat(*seat).http()).collect(),
        values: AtomicU64::new(0),
        pace: PACE,
        stop: AtomicBool::new(false),
    })
}
