//! All that watches, exports and imports in a run, and the faults on its way to the nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::client_link::ClientLink;
use super::client_plan::{ClientPlan, RegionPaths, client_plans};
use super::exporter::Exporter;
use super::importer::Importer;
use super::key_writer::KeyWriter;
use super::router_faults::{RouterFaultCounts, RouterFaults};
use super::watchers::Watchers;
use crate::panics::catch_panic;
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{WatchOptions, list_bucket};
use cloudkv_test_harness::{ApiClient, Bucket, Router, eventually};

/// Time for a new bucket to be known by all nodes and routers of a region.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for all clients to have what the bucket has, once all is healthy.
const CHECK_TIMEOUT: Duration = Duration::from_secs(90);

/// First streams of random numbers of each kind of client.
const WRITER_STREAM: u64 = 0x3a7c_0000;
const ROUTER_STREAM: u64 = 0x3a7d_0000;
const EXPORT_STREAM: u64 = 0x3a7e;
const IMPORT_STREAM: u64 = 0x3a7f;

/// A region whose bucket is watched.
#[derive(Clone, Debug)]
pub(crate) struct WatchedRegion {
    /// Name of the region.
    pub name: String,
    /// Addresses of the rpc ports that its routers begin with.
    pub rpc: Vec<SocketAddr>,
    /// Public addresses of its nodes.
    pub http: Vec<SocketAddr>,
    /// Number of routers.
    pub routers: usize,
    /// True if there are other regions: fewer clients are started then.
    pub is_one_of_several: bool,
}

/// Results of the checks.
#[derive(Debug, Default)]
pub(crate) struct WatchResult {
    /// What readers of the report should know.
    pub notes: Vec<String>,
    /// Failures.
    pub failures: Vec<String>,
    /// Buckets that imports have created.
    pub buckets: Vec<Bucket>,
}

/// Clients of one bucket, until the end of a run.
pub(crate) struct WatchLoad {
    bucket: Bucket,
    seed: u64,
    /// Folder for the logs of routers.
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    watchers: Watchers,
    writers: Vec<JoinHandle<KeyWriter>>,
    faults: Vec<JoinHandle<RouterFaults>>,
    exporter: Option<JoinHandle<Exporter>>,
    importer: Option<JoinHandle<Importer>>,
    /// API of the first router, behind its link.
    api: Option<ApiClient>,
    /// Faults that have ended: their routers run, and no link stalls.
    ended_faults: Vec<RouterFaults>,
    result: WatchResult,
}

impl WatchLoad {
    /// Creates a load without any client.
    pub(crate) fn new(bucket: &Bucket, seed: u64, dir: PathBuf) -> Self {
        Self {
            bucket: bucket.clone(),
            seed,
            dir,
            stop: Arc::new(AtomicBool::new(false)),
            watchers: Watchers::default(),
            writers: vec![],
            faults: vec![],
            exporter: None,
            importer: None,
            api: None,
            ended_faults: vec![],
            result: WatchResult::default(),
        }
    }

    /// Starts routers and clients of a region, which must serve already. Those of the first one
    /// also export and import.
    ///
    /// # Panics
    /// Panics if a router doesn't become ready, or if the bucket isn't known in time.
    pub(crate) async fn add_region(&mut self, region: &WatchedRegion) {
        let number = self.faults.len() as u64;
        let mut routers = vec![];
        for _ in 0..region.routers {
            routers.push(Router::start_with(&region.rpc, &["--region", &region.name]).await);
        }
        let link = |server| ClientLink::start(server).expect("listen for clients");
        let mut links: Vec<ClientLink> = routers.iter().map(Router::http).map(link).collect();
        let last_node = region.http.last().copied();
        links.extend(last_node.map(link));
        let addresses: Vec<SocketAddr> = links.iter().map(ClientLink::address).collect();
        for address in &addresses {
            self.wait_known(*address).await;
        }
        let (of_routers, of_node) = addresses.split_at(region.routers);
        let paths = RegionPaths {
            name: &region.name,
            routers: of_routers,
            node: of_node[0],
            is_one_of_several: region.is_one_of_several,
        };
        for ClientPlan {
            name,
            last_key,
            options,
        } in client_plans(&self.bucket, &paths)
        {
            self.watchers.start(name, &last_key, options);
        }
        self.spawn_region(region, (routers, links), number);
        if self.exporter.is_none() {
            self.spawn_transfers(of_routers, region.is_one_of_several);
        }
    }

    fn spawn_region(
        &mut self,
        region: &WatchedRegion,
        (routers, links): (Vec<Router>, Vec<ClientLink>),
        number: u64,
    ) {
        let rng = Rng::derived(self.seed, ROUTER_STREAM + number);
        let faults = RouterFaults::new(routers, links, rng, &self.stop);
        self.faults.push(tokio::spawn(faults.run()));
        let rng = Rng::derived(self.seed, WRITER_STREAM + number);
        let writer = KeyWriter::new(&self.bucket, &region.http, rng, &self.stop);
        self.writers.push(tokio::spawn(writer.run()));
    }

    /// Starts exports and imports through these routers.
    fn spawn_transfers(&mut self, routers: &[SocketAddr], has_regions: bool) {
        let (bucket, stop) = (&self.bucket, &self.stop);
        let rng = Rng::derived(self.seed, EXPORT_STREAM);
        let exporter = Exporter::new(bucket, routers, has_regions, rng, stop);
        self.exporter = Some(tokio::spawn(exporter.run()));
        let rng = Rng::derived(self.seed, IMPORT_STREAM);
        let importer = Importer::new(bucket, routers, rng, stop);
        self.importer = Some(tokio::spawn(importer.run()));
        self.api = routers.first().map(|router| ApiClient::new(*router));
    }

    /// Waits until the bucket is known at an address: an `EventSource` gives up at a 404.
    async fn wait_known(&self, address: SocketAddr) {
        let options = WatchOptions::new(&[address], &self.bucket);
        let api = ApiClient::new(address);
        let what = format!("{address} knows the bucket");
        eventually(&what, BUCKET_TIMEOUT, async || {
            list_bucket(&api, &options).await.ok().map(drop)
        })
        .await;
    }

    /// Stops the faults and all that writes the bucket; clients go on watching it.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut counts = RouterFaultCounts::default();
        for task in std::mem::take(&mut self.faults) {
            match task.await {
                Ok(ended) => {
                    counts.add(ended.counts);
                    self.ended_faults.push(ended);
                }
                Err(error) => self.fail(format!("faults of routers: {error}")),
            }
        }
        self.result
            .notes
            .push(format!("on the way to clients: {counts}"));
        let mut acknowledged = 0;
        for task in std::mem::take(&mut self.writers) {
            match task.await {
                Ok(mut writer) => {
                    acknowledged += writer.acknowledged;
                    self.result.failures.append(&mut writer.anomalies);
                }
                Err(error) => self.fail(format!("watched keys: {error}")),
            }
        }
        if acknowledged == 0 {
            self.fail("no write of a watched key was acknowledged".to_owned());
        }
    }

    /// Checks all clients, after [`WatchLoad::stop`]. All nodes must be healthy, and nothing else
    /// may write the bucket any more.
    pub(crate) async fn finish(mut self) -> WatchResult {
        if let Some(api) = &self.api {
            let failures = self.watchers.check(api, CHECK_TIMEOUT).await;
            self.result.failures.extend(failures);
        }
        let (watchers, counts) = (self.watchers.len(), self.watchers.counts());
        self.result.notes.push(format!(
            "watchers: {watchers}, {} streams ({} ended, {} broke), {} puts, {} deletes, {} \
             expiries, {} resets, {} lists",
            counts.streams,
            counts.ends,
            counts.breaks,
            counts.puts,
            counts.deletes,
            counts.expiries,
            counts.resets,
            counts.lists
        ));
        self.finish_transfers().await;
        self.end_routers().await;
        std::mem::take(&mut self.result)
    }

    async fn finish_transfers(&mut self) {
        if let Some(task) = self.exporter.take() {
            match task.await {
                Ok(exporter) => {
                    let (note, failures) = exporter.finish(CHECK_TIMEOUT).await;
                    self.result.notes.push(note);
                    self.result.failures.extend(failures);
                }
                Err(error) => self.fail(format!("exports: {error}")),
            }
        }
        if let Some(task) = self.importer.take() {
            match task.await {
                Ok(importer) => {
                    let (note, failures, buckets) = importer.finish(CHECK_TIMEOUT).await;
                    self.result.notes.push(note);
                    self.result.failures.extend(failures);
                    self.result.buckets.extend(buckets);
                }
                Err(error) => self.fail(format!("imports: {error}")),
            }
        }
    }

    /// Writes the routers' logs beside those of the nodes, and stops the routers, which fails if
    /// they have logged errors.
    async fn end_routers(&mut self) {
        for (number, faults) in self.ended_faults.drain(..).enumerate() {
            let path = self.dir.join(format!("routers-{number}.log"));
            if let Err(error) = std::fs::write(&path, faults.logs()) {
                eprintln!("write {}: {error}", path.display());
            }
            let ended = catch_panic(async move { drop(faults) }).await;
            self.result.failures.extend(ended.err());
        }
    }

    fn fail(&mut self, failure: String) {
        self.result.failures.push(failure);
    }
}

impl Drop for WatchLoad {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
        self.faults.iter().for_each(JoinHandle::abort);
        self.exporter.iter().for_each(JoinHandle::abort);
        self.importer.iter().for_each(JoinHandle::abort);
    }
}
