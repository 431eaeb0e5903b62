//! Clients of a run over several regions, and the checks that run beside them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::context::RegionsContext;
use super::remote_reader::read_other_regions;
use super::session_client::SessionClient;
use crate::bucket_list::BucketListClient;
use crate::history::History;
use crate::history_checker::{ExtraCheck, HistoryChecker};
use crate::recording_client::ClientContext;
use crate::watch::{WatchLoad, WatchedRegion};
use crate::workload_client::WorkloadClient;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::MultiRegionCluster;

/// Time after the end of a generation of keys in which its last reader in another region has its
/// response.
const LAST_READ_DELAY: Duration = Duration::from_secs(25);

/// First client numbers of each kind of client; their random decisions depend on the number.
const FIRST_SESSION_CLIENT: u32 = 1000;
const FIRST_REMOTE_READER: u32 = 2000;

/// All clients of a run.
pub(super) struct RegionsLoad {
    pub context: Arc<RegionsContext>,
    clients_per_node: u32,
    seed: u64,
    dir: PathBuf,
    clients: Vec<JoinHandle<()>>,
    checkers: Vec<JoinHandle<HistoryChecker>>,
    bucket_lists: JoinHandle<BucketListClient>,
    bucket_list_context: Arc<ClientContext>,
    /// Clients that watch the shared keys, if the run has such.
    pub watches: Option<WatchLoad>,
}

/// The results of a load after its end.
pub(super) struct FinishedLoad {
    pub checkers: Vec<HistoryChecker>,
    pub bucket_lists: BucketListClient,
    pub failures: Vec<String>,
    /// Clients that watch the shared keys still, if the run has such.
    pub watches: Option<WatchLoad>,
    bucket_list_context: Arc<ClientContext>,
}

impl RegionsLoad {
    /// Creates the load; at first only the client that lists buckets calls.
    pub(super) fn new(
        context: &Arc<RegionsContext>,
        clients_per_node: u32,
        seed: u64,
        dir: PathBuf,
        listed_bucket: Bucket,
    ) -> Self {
        let shared = Arc::new(ClientContext {
            history: History::new(),
            bucket: listed_bucket.clone(),
            nodes: context.shared_keys.nodes.clone(),
            last_write: AtomicU64::new(0),
            think_time_ms: 0..0,
            has_new_calls: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let directory = BucketListClient::new(&shared, &listed_bucket, seed);
        Self {
            context: context.clone(),
            clients_per_node,
            seed,
            dir,
            clients: vec![],
            checkers: vec![],
            bucket_lists: tokio::spawn(directory.run()),
            bucket_list_context: shared,
            watches: None,
        }
    }

    /// Starts the clients of the next region, which must serve already.
    pub(super) fn add_region(&mut self) {
        let region = self.checkers.len();
        let context = &self.context;
        context.active_regions.fetch_add(1, Ordering::Relaxed);
        let first = u32::try_from(region).unwrap_or(0) * 100;
        let own_keys = &context.own_keys[region];
        for node in 0..own_keys.nodes.len() {
            for client in 0..self.clients_per_node {
                let number =
                    first + u32::try_from(node).unwrap_or(0) * self.clients_per_node + client;
                let client = WorkloadClient::new(own_keys, number, node, self.seed);
                self.clients.push(tokio::spawn(client.run()));
            }
        }
        for client in 0..self.clients_per_node {
            let number = FIRST_SESSION_CLIENT + first + client;
            let changes_region = client % 2 == 0;
            let client = SessionClient::new(context, number, region, changes_region, self.seed);
            self.clients.push(tokio::spawn(client.run()));
        }
        let reader = read_other_regions(
            context.clone(),
            FIRST_REMOTE_READER + first,
            region,
            self.seed,
        );
        self.clients.push(tokio::spawn(reader));
        let checking_context = context.clone();
        let extra = ExtraCheck {
            check: Arc::new(move |key, records| {
                checking_context.check_own_key(region, key, records)
            }),
            delay: LAST_READ_DELAY,
        };
        let dir = self.dir.join(format!("histories-{region}"));
        std::fs::create_dir_all(&dir).expect("make a folder for histories");
        let checker = HistoryChecker::new(own_keys, dir, Some(extra));
        let own_keys = own_keys.clone();
        self.checkers.push(tokio::spawn(async move {
            let checker = checker.run().await;
            // A key that failed ends the run.
            own_keys.stop.store(true, Ordering::Relaxed);
            checker
        }));
    }

    /// Starts the clients that watch the shared keys in a region, if the run has such. The region
    /// must serve already.
    pub(super) async fn watch_region(&mut self, cluster: &MultiRegionCluster, region: usize) {
        let Some(watches) = &mut self.watches else {
            return;
        };
        let seats = cluster.seats(region);
        let watched = WatchedRegion {
            name: cluster.names()[region].clone(),
            rpc: cluster.rpc_addresses(cluster.running()),
            http: cluster.http_addresses(seats),
            routers: 1,
            is_one_of_several: true,
        };
        watches.add_region(&watched).await;
    }

    /// Stops all clients but those that watch.
    ///
    /// # Panics
    /// Panics if a check has panicked.
    pub(super) async fn stop(mut self) -> FinishedLoad {
        self.context.stop_all();
        self.bucket_list_context.stop.store(true, Ordering::Relaxed);
        let mut failures = vec![];
        for result in join_all(self.clients).await {
            if let Err(error) = result {
                failures.push(format!("client task failed: {error}"));
            }
        }
        if let Some(watches) = &mut self.watches {
            watches.stop().await;
        }
        let checkers = join_all(self.checkers).await.into_iter();
        FinishedLoad {
            checkers: checkers
                .map(|checker| checker.expect("the check task does not panic"))
                .collect(),
            bucket_lists: self
                .bucket_lists
                .await
                .expect("the client task does not panic"),
            failures,
            watches: self.watches,
            bucket_list_context: self.bucket_list_context,
        }
    }
}

impl FinishedLoad {
    /// Returns the number of calls in histories that passed.
    pub(super) fn checked_calls(&self) -> u64 {
        let checkers = self.checkers.iter();
        checkers.map(|checker| checker.checked_calls).sum()
    }

    /// Returns the wrong responses to bucket lists.
    pub(super) fn anomalies(&self) -> Vec<String> {
        self.bucket_list_context.history.anomalies()
    }
}
