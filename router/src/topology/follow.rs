//! Watches the topology at all nodes, and publishes it.
//!
//! The seeds are only watched until a node reports at its own address, and again when none does any
//! more. The known topology is kept, so that a router goes on when its seeds are unreachable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cloudkv_proto::tls::Dialer;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::check::check;
use super::choice::Choice;
use super::journal::Journal;
use super::node::Node;
use super::reports::Reports;
use super::view::View;
use crate::upstream::Reach;

/// Time to connect to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a report after which a node counts as lost: it reports more often than that.
const SILENT: Duration = Duration::from_secs(3);
/// Minimum and maximum backoff between attempts to watch a node.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Interval at which regions are compared.
const LOOK: Duration = Duration::from_millis(100);
/// Maximum number of queued events.
const WAITING: usize = 64;

/// Settings of following a cluster.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// Addresses of the first nodes to watch, `host:port` each.
    pub seeds: Vec<String>,
    /// Region of the router.
    pub home: String,
    /// Parameters of connections to nodes.
    pub reach: Reach,
    /// Interval of health checks.
    pub check_interval: Duration,
}

/// Event of the node at an address.
enum Told {
    /// A report of the node.
    Said(pb::Topology),
    /// The node doesn't report any more.
    Lost,
    /// The node couldn't be watched, with the reason.
    Failed(String),
}

/// Sender of events, with the node's address.
type Tell = mpsc::Sender<(String, Told)>;

/// Follows the cluster's topology.
pub struct Follower {
    settings: FollowerSettings,
    reports: Reports,
    choice: Choice,
    current: u32,
    view: Arc<ArcSwapOption<View>>,
    tell: Tell,
    told: mpsc::Receiver<(String, Told)>,
    journal: Journal,
    listening: HashMap<String, DropGuard>,
    checking: HashMap<u64, (Arc<Node>, DropGuard)>,
}

impl Follower {
    /// Creates a follower that publishes to `view`.
    pub fn new(settings: FollowerSettings, view: Arc<ArcSwapOption<View>>) -> Self {
        let (event_sender, events) = mpsc::channel(WAITING);
        Self {
            reports: Reports::new(settings.reach.clone()),
            settings,
            choice: Choice::default(),
            current: 0,
            view,
            tell: event_sender,
            told: events,
            journal: Journal::new(),
            listening: HashMap::new(),
            checking: HashMap::new(),
        }
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = self.told.recv() => if let Some(event) = event {
                    self.take(event);
                },
                _ = ticks.tick() => self.look(),
            }
        }
    }

    fn take(&mut self, (address, event): (String, Told)) {
        match event {
            Told::Failed(reason) => return self.journal.failed(address, reason),
            Told::Said(report) => {
                self.journal.heard(&address);
                if let Err(error) = self.reports.take(&address, report) {
                    tracing::error!(address, %error, "node ignored");
                    return;
                }
            }
            Told::Lost => self.reports.lose(&address),
        }
        self.settle();
        self.look();
        self.publish();
    }

    /// Starts and ends the tasks that watch and check nodes, so that they match the topology.
    fn settle(&mut self) {
        let mut wanted: Vec<String> = self.reports.addresses().map(str::to_owned).collect();
        if !self.reports.hears_a_node() {
            wanted.extend(self.settings.seeds.iter().cloned());
        }
        let reports = &mut self.reports;
        self.listening.retain(|address, _| {
            let is_wanted = wanted.contains(address);
            if !is_wanted {
                reports.lose(address);
            }
            is_wanted
        });
        for address in wanted {
            let (events, dialer) = (self.tell.clone(), self.settings.reach.dialer.clone());
            self.listening
                .entry(address)
                .or_insert_with_key(|address| start(listen(address.clone(), dialer, events)));
        }
        let reports = &self.reports;
        let is_present = |node: &Arc<Node>| reports.nodes().any(|other| Arc::ptr_eq(node, other));
        self.checking.retain(|_, (node, _)| is_present(node));
        for node in reports.nodes() {
            let interval = self.settings.check_interval;
            self.checking
                .entry(node.id)
                .or_insert_with(|| (node.clone(), start(check(node.clone(), interval))));
        }
    }

    /// Compares the regions, and logs a change of the current one.
    fn look(&mut self) {
        let now = Instant::now();
        let watched: Vec<String> = self.listening.keys().cloned().collect();
        let has_report = self.reports.hears_anybody();
        self.journal.look_at_silence(now, has_report, &watched);
        self.journal.look_at_regions(now, &self.reports.regions());
        let home = self.reports.number(&self.settings.home);
        let samples = self.reports.samples();
        let Some(current) = self.choice.look(now, &samples, home) else {
            return;
        };
        let before = std::mem::replace(&mut self.current, current);
        if before != current {
            self.publish();
            if before != 0 {
                let (from, to) = (self.reports.name(before), self.reports.name(current));
                tracing::warn!(from, to, "current region changed");
            }
        }
    }

    fn publish(&self) {
        if let Some(view) = self.reports.view(self.current) {
            self.view.store(Some(Arc::new(view)));
        }
    }
}

/// Spawns a future that runs until the guard is dropped.
fn start(future: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(stop.clone().run_until_cancelled_owned(future));
    stop.drop_guard()
}

/// Watches the node at an address for ever, and sends its events.
async fn listen(address: String, dialer: Dialer, events: Tell) {
    let mut backoff = RETRY.0;
    loop {
        let opened = tokio::time::timeout(2 * CONNECT_TIMEOUT, open(&address, &dialer)).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no response in time"))) {
            Ok(reports) => {
                backoff = RETRY.0;
                let error = hear(&address, reports, &events).await;
                tracing::debug!(address, %error, "topology stream ended");
                if events.send((address.clone(), Told::Lost)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let status = dialer.explain(&address, error).await;
                let reason = status.message().to_owned();
                if events
                    .send((address.clone(), Told::Failed(reason)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (2 * backoff).min(RETRY.1);
    }
}

/// Forwards a node's reports until the stream ends, and returns the reason.
async fn hear(address: &str, mut reports: Streaming<pb::Topology>, events: &Tell) -> Status {
    loop {
        let report = match tokio::time::timeout(SILENT, reports.message()).await {
            Ok(Ok(Some(report))) => report,
            Ok(Ok(None)) => return Status::unavailable("the node ended the stream"),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no report in time"),
        };
        if events
            .send((address.to_owned(), Told::Said(report)))
            .await
            .is_err()
        {
            return Status::cancelled("the follower has stopped");
        }
    }
}

async fn open(address: &str, dialer: &Dialer) -> Result<Streaming<pb::Topology>, Status> {
    let configure = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT);
    let channel = dialer.channel(address, configure).await?;
    let watch = NodeClient::new(channel)
        .watch(pb::TopologyRequest {})
        .await?;
    Ok(watch.into_inner())
}
