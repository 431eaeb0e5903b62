//! Clients of a run over several regions, and the checks that run beside them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::field::Field;
use super::traveller::{Traveller, read_abroad};
use crate::faults::client::{Client, Shared};
use crate::faults::directory::DirectoryClient;
use crate::faults::ledger::Ledger;
use crate::faults::settle::{Also, Settler};
use crate::harness::Bucket;

/// Time after the end of a generation of keys in which its last reader in another region has its
/// response.
const READ_AFTER: Duration = Duration::from_secs(25);

/// First client numbers of each kind of client; their random decisions depend on the number.
const OF_SHARED: u32 = 1000;
const OF_READERS: u32 = 2000;

/// All clients of a run.
pub(super) struct Load {
    pub field: Arc<Field>,
    clients_each: u32,
    seed: u64,
    dir: PathBuf,
    clients: Vec<JoinHandle<()>>,
    settlers: Vec<JoinHandle<Settler>>,
    directory: JoinHandle<DirectoryClient>,
    directory_stop: Arc<Shared>,
}

/// The results of a load after its end.
pub(super) struct Ended {
    pub settlers: Vec<Settler>,
    pub directory: DirectoryClient,
    pub failures: Vec<String>,
    directory_shared: Arc<Shared>,
}

impl Load {
    /// Creates the load; at first only the client that lists buckets calls.
    pub fn new(
        context: &Arc<Field>,
        clients_each: u32,
        seed: u64,
        dir: PathBuf,
        listed_bucket: Bucket,
    ) -> Self {
        let shared = Arc::new(Shared {
            ledger: Ledger::new(),
            bucket: listed_bucket.clone(),
            nodes: context.common.nodes.clone(),
            values: AtomicU64::new(0),
            pace: 0..0,
            stop: AtomicBool::new(false),
        });
        let directory = DirectoryClient::new(&shared, &listed_bucket, seed);
        Self {
            field: context.clone(),
            clients_each,
            seed,
            dir,
            clients: vec![],
            settlers: vec![],
            directory: tokio::spawn(directory.run()),
            directory_stop: shared,
        }
    }

    /// Starts the clients of the next region, which must serve already.
    pub fn add_region(&mut self) {
        let region = self.settlers.len();
        let context = &self.field;
        context.regions.fetch_add(1, Ordering::Relaxed);
        let first = u32::try_from(region).unwrap_or(0) * 100;
        let own_keys = &context.homes[region];
        for node in 0..own_keys.nodes.len() {
            for client in 0..self.clients_each {
                let number = first + u32::try_from(node).unwrap_or(0) * self.clients_each + client;
                let client = Client::new(own_keys, number, node, self.seed);
                self.clients.push(tokio::spawn(client.run()));
            }
        }
        for client in 0..self.clients_each {
            let number = OF_SHARED + first + client;
            let changes_region = client % 2 == 0;
            let client = Traveller::new(context, number, region, changes_region, self.seed);
            self.clients.push(tokio::spawn(client.run()));
        }
        let reader = read_abroad(context.clone(), OF_READERS + first, region, self.seed);
        self.clients.push(tokio::spawn(reader));
        let checking_context = context.clone();
        let extra = Also {
            judge: Arc::new(move |key, records| checking_context.judge_home(region, key, records)),
            after: READ_AFTER,
        };
        let dir = self.dir.join(format!("histories-{region}"));
        std::fs::create_dir_all(&dir).expect("make a folder for histories");
        let checker = Settler::new(own_keys, dir, Some(extra));
        let own_keys = own_keys.clone();
        self.settlers.push(tokio::spawn(async move {
            let checker = checker.run().await;
            // A key that failed ends the run.
            own_keys.stop.store(true, Ordering::Relaxed);
            checker
        }));
    }

    /// Stops all clients.
    ///
    /// # Panics
    /// Panics if a check has panicked.
    pub async fn stop(self) -> Ended {
        self.field.stop_all();
        self.directory_stop.stop.store(true, Ordering::Relaxed);
        let mut failures = vec![];
        for result in join_all(self.clients).await {
            if let Err(error) = result {
                failures.push(format!("client task failed: {error}"));
            }
        }
        let checkers = join_all(self.settlers).await.into_iter();
        Ended {
            settlers: checkers
                .map(|checker| checker.expect("the check task does not panic"))
                .collect(),
            directory: self.directory.await.expect("the client task does not panic"),
            failures,
            directory_shared: self.directory_stop,
        }
    }
}

impl Ended {
    /// Returns the wrong responses to bucket lists.
    pub fn odd_lists(&self) -> Vec<String> {
        self.directory_shared.ledger.odd_answers()
    }
}
