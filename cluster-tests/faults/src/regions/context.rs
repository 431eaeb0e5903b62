//! State that all parts of a run over several regions share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::lww_checker;
use super::region_call::{RegionCall, RegionCalls, RunStart};
use crate::call_record::CallRecord;
use crate::history::{History, KeyName, OutcomeCounts};
use crate::recording_client::ClientContext;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::MultiRegionCluster;

/// Pause of a client between two calls, in milliseconds. The load exists for the checks and not for
/// measurements, and regions without processor time for each other never converge.
const THINK_TIME_MS: std::ops::Range<u64> = 1..30;

/// Time for which a set of shared keys is used, in seconds: long enough for a partition to begin
/// and to end.
const SHARED_GENERATION_SECS: u64 = 20;

/// Number of generations before the present one that other regions read.
const READ_BACK_GENERATIONS: u64 = 3;

/// Buckets of a run, the calls on them, and counters.
#[derive(Debug)]
pub(super) struct RegionsContext {
    started: Instant,
    pub run_start: RunStart,
    /// Seats of each region's nodes.
    pub seats: Vec<std::ops::Range<usize>>,
    /// Keys of each region that are written there alone, for its own clients.
    pub own_keys: Vec<Arc<ClientContext>>,
    /// The same keys for clients in other regions, and the calls of these.
    pub remote_readers: Vec<(Arc<ClientContext>, RegionCalls)>,
    /// Keys that are written in all regions, and the calls on them.
    pub shared_keys: Arc<ClientContext>,
    pub shared_calls: RegionCalls,
    /// Number of regions that have clients.
    pub active_regions: AtomicU64,
    /// Number of reads with a session token that succeeded, and of those that were refused or
    /// failed.
    pub token_reads: AtomicU64,
    pub refused_token_reads: AtomicU64,
    /// Number of calls in histories that passed.
    pub checked_calls: AtomicU64,
    pub stop: AtomicBool,
}

impl RegionsContext {
    /// Creates the buckets. Clients use new calls from the start if `has_new_calls`.
    pub(super) async fn start(
        cluster: &MultiRegionCluster,
        regions: usize,
        has_new_calls: bool,
    ) -> Arc<Self> {
        let started = Instant::now();
        let origin = RunStart::now();
        let api = cluster.api(0);
        let new_bucket = async || api.create_bucket_with(&[("plan", "pro")]).await;
        let mut homes = vec![];
        let mut abroad = vec![];
        let all = || (0..cluster.nodes.len()).collect::<Vec<_>>();
        for region in 0..regions {
            let bucket = new_bucket().await;
            let own_seats = cluster.seats(region).collect();
            homes.push(client_context(cluster, started, bucket.clone(), own_seats));
            let elsewhere = client_context(cluster, started, bucket, all());
            abroad.push((elsewhere, RegionCalls::default()));
        }
        let common = client_context(cluster, started, new_bucket().await, all());
        let context = Arc::new(Self {
            started,
            run_start: origin,
            seats: (0..regions).map(|region| cluster.seats(region)).collect(),
            own_keys: homes,
            remote_readers: abroad,
            shared_keys: common,
            shared_calls: RegionCalls::default(),
            active_regions: AtomicU64::new(0),
            token_reads: AtomicU64::new(0),
            refused_token_reads: AtomicU64::new(0),
            checked_calls: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        if has_new_calls {
            context.enable_new_calls();
        }
        context
    }

    /// Has the clients use what only nodes of feature level 2 know. All nodes must be of a build
    /// that has it.
    pub(super) fn enable_new_calls(&self) {
        for keys in self.own_keys.iter().chain([&self.shared_keys]) {
            keys.has_new_calls.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the number of regions that have clients; they are the first ones.
    pub(super) fn region_count(&self) -> usize {
        usize::try_from(self.active_regions.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Returns true if the run is to end: it is over, or a key has failed.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.own_keys.iter().any(|keys| keys.is_stopped())
    }

    pub(super) fn stop_all(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for keys in &self.own_keys {
            keys.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Returns nanoseconds since the run's start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the generation of shared keys that is used now.
    pub(super) fn shared_generation(&self) -> u64 {
        self.started.elapsed().as_secs() / SHARED_GENERATION_SECS
    }

    /// Returns the generations of a region's own keys that other regions read now.
    pub(super) fn readable_generations(&self, region: usize) -> std::ops::RangeInclusive<u64> {
        let now = self.own_keys[region].history.generation();
        now.saturating_sub(READ_BACK_GENERATIONS)..=now
    }

    /// Checks all regions' calls on a key that one region owns.
    pub(super) fn check_own_key(
        &self,
        region: usize,
        key: KeyName,
        records: &[CallRecord],
    ) -> Result<(), String> {
        let own_calls = records
            .iter()
            .map(|record| RegionCall::without_session(region, record.clone()));
        let mut calls: Vec<RegionCall> = own_calls.collect();
        calls.append(&mut self.remote_readers[region].1.take(key));
        self.checked_calls
            .fetch_add(calls.len() as u64, Ordering::Relaxed);
        lww_checker::check_key(&calls, self.run_start, None).map_err(|reason| {
            format!(
                "{reason}\nin all regions:\n{}",
                lww_checker::format_calls(&calls)
            )
        })
    }

    /// Returns all histories of the run.
    fn histories(&self) -> impl Iterator<Item = &History> {
        let abroad = self.remote_readers.iter().map(|(shared, _)| shared);
        let all = self
            .own_keys
            .iter()
            .chain(abroad)
            .chain([&self.shared_keys]);
        all.map(|shared| &shared.history)
    }

    /// Returns the number of all calls by outcome.
    pub(super) fn counts(&self) -> OutcomeCounts {
        OutcomeCounts::sum(self.histories().map(|history| &history.counts))
    }

    /// Returns the responses that no client should have got.
    pub(super) fn anomalies(&self) -> Vec<String> {
        self.histories().flat_map(History::anomalies).collect()
    }

    /// Returns the buckets in which all regions must converge.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let all = self.own_keys.iter().chain([&self.shared_keys]);
        all.map(|shared| shared.bucket.clone()).collect()
    }

    /// Takes the calls on shared keys.
    pub(super) fn take_shared_calls(&self) -> HashMap<KeyName, Vec<RegionCall>> {
        self.shared_calls.take_all()
    }
}

fn client_context(
    cluster: &MultiRegionCluster,
    started: Instant,
    bucket: Bucket,
    seats: Vec<usize>,
) -> Arc<ClientContext> {
    Arc::new(ClientContext {
        history: History::starting_at(started),
        bucket,
        nodes: cluster.http_addresses(seats),
        last_write: AtomicU64::new(0),
        think_time_ms: THINK_TIME_MS,
        has_new_calls: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    })
}
