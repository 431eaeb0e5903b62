//! The clients of a run over several regions, and the checks that go on meanwhile.

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

/// How long after a generation of keys ended its last reader in another region has its answer.
const READ_AFTER: Duration = Duration::from_secs(25);

/// Numbers of clients, by what they are: what is random about them depends on it.
const OF_SHARED: u32 = 1000;
const OF_READERS: u32 = 2000;

/// All clients.
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

/// What is left of the load when it has ended.
pub(super) struct Ended {
    pub settlers: Vec<Settler>,
    pub directory: DirectoryClient,
    pub failures: Vec<String>,
    directory_shared: Arc<Shared>,
}

impl Load {
    /// Nobody calls yet but the client that lists buckets.
    pub fn new(
        field: &Arc<Field>,
        clients_each: u32,
        seed: u64,
        dir: PathBuf,
        own: Bucket,
    ) -> Self {
        let shared = Arc::new(Shared {
            ledger: Ledger::new(),
            bucket: own.clone(),
            nodes: field.common.nodes.clone(),
            values: AtomicU64::new(0),
            pace: 0..0,
            stop: AtomicBool::new(false),
        });
        let directory = DirectoryClient::new(&shared, &own, seed);
        Self {
            field: field.clone(),
            clients_each,
            seed,
            dir,
            clients: vec![],
            settlers: vec![],
            directory: tokio::spawn(directory.run()),
            directory_stop: shared,
        }
    }

    /// Starts the clients of the next region, which serves.
    pub fn add_region(&mut self) {
        let region = self.settlers.len();
        let field = &self.field;
        field.regions.fetch_add(1, Ordering::Relaxed);
        let first = u32::try_from(region).unwrap_or(0) * 100;
        let home = &field.homes[region];
        for node in 0..home.nodes.len() {
            for client in 0..self.clients_each {
                let number = first + u32::try_from(node).unwrap_or(0) * self.clients_each + client;
                let client = Client::new(home, number, node, self.seed);
                self.clients.push(tokio::spawn(client.run()));
            }
        }
        for client in 0..self.clients_each {
            let number = OF_SHARED + first + client;
            let travels = client % 2 == 0;
            let traveller = Traveller::new(field, number, region, travels, self.seed);
            self.clients.push(tokio::spawn(traveller.run()));
        }
        let reader = read_abroad(field.clone(), OF_READERS + first, region, self.seed);
        self.clients.push(tokio::spawn(reader));
        let judging = field.clone();
        let also = Also {
            judge: Arc::new(move |key, records| judging.judge_home(region, key, records)),
            after: READ_AFTER,
        };
        let dir = self.dir.join(format!("histories-{region}"));
        std::fs::create_dir_all(&dir).expect("make a folder for histories");
        let settler = Settler::new(home, dir, Some(also));
        let home = home.clone();
        self.settlers.push(tokio::spawn(async move {
            let settler = settler.run().await;
            // A key that failed ends the run.
            home.stop.store(true, Ordering::Relaxed);
            settler
        }));
    }

    /// Ends all calls.
    ///
    /// # Panics
    /// When a check has ended by itself.
    pub async fn stop(self) -> Ended {
        self.field.stop_all();
        self.directory_stop.stop.store(true, Ordering::Relaxed);
        let mut failures = vec![];
        for ended in join_all(self.clients).await {
            if let Err(error) = ended {
                failures.push(format!("a client ended: {error}"));
            }
        }
        let settlers = join_all(self.settlers).await.into_iter();
        Ended {
            settlers: settlers
                .map(|settler| settler.expect("a check goes on to its end"))
                .collect(),
            directory: self.directory.await.expect("a client goes on to its end"),
            failures,
            directory_shared: self.directory_stop,
        }
    }
}

impl Ended {
    /// What was wrong with answers about buckets.
    pub fn odd_lists(&self) -> Vec<String> {
        self.directory_shared.ledger.odd_answers()
    }
}
