//! Watches the topology at all nodes, and publishes it.
//!
//! The seeds are only watched until a node reports at its own address, and again when none does any
//! more. The known topology is kept, so that a router goes on when its seeds are unreachable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cloudkv_common::node_id::NodeId;
use cloudkv_common::transport::tls::Dialer;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::event_log::{EventLog, log_region_decision};
use super::health_check::run_health_checks;
use super::region_choice::RegionChoice;
use super::reports::TopologyReports;
use super::view::TopologyView;
use crate::upstream::{ConnectSettings, Node};

/// Time to connect to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a report after which a node counts as lost: it reports more often than that.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Minimum and maximum backoff between attempts to watch a node.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Interval at which regions are compared.
const COMPARE_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of queued events.
const MAX_QUEUED_EVENTS: usize = 64;

/// Settings of following a cluster.
#[derive(Clone, Debug)]
pub(crate) struct FollowerSettings {
    /// Addresses of the first nodes to watch, `host:port` each.
    pub seeds: Vec<String>,
    /// Region of the router.
    pub home_region: String,
    /// Parameters of connections to nodes.
    pub connect: ConnectSettings,
    /// Interval of health checks.
    pub check_interval: Duration,
}

/// Event of the node at an address.
enum NodeEvent {
    /// A report of the node.
    Report(pb::Topology),
    /// The node doesn't report any more.
    Lost,
    /// The node couldn't be watched, with the reason.
    Failed(String),
}

/// Sender of events, with the node's address.
type EventSender = mpsc::Sender<(String, NodeEvent)>;

/// Follows the cluster's topology.
pub(crate) struct Follower {
    settings: FollowerSettings,
    reports: TopologyReports,
    choice: RegionChoice,
    current: u32,
    view: Arc<ArcSwapOption<TopologyView>>,
    event_sender: EventSender,
    events: mpsc::Receiver<(String, NodeEvent)>,
    event_log: EventLog,
    watchers: HashMap<String, DropGuard>,
    health_checks: HashMap<NodeId, (Arc<Node>, DropGuard)>,
}

impl Follower {
    /// Creates a follower that publishes to `view`.
    pub(crate) fn new(settings: FollowerSettings, view: Arc<ArcSwapOption<TopologyView>>) -> Self {
        let (event_sender, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        Self {
            reports: TopologyReports::new(settings.connect.clone()),
            settings,
            choice: RegionChoice::default(),
            current: 0,
            view,
            event_sender,
            events,
            event_log: EventLog::new(),
            watchers: HashMap::new(),
            health_checks: HashMap::new(),
        }
    }

    /// Follows until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(COMPARE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.update_tasks();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = self.events.recv() => if let Some(event) = event {
                    self.handle_event(event);
                },
                _ = ticks.tick() => self.update_current_region(),
            }
        }
    }

    fn handle_event(&mut self, (address, event): (String, NodeEvent)) {
        match event {
            NodeEvent::Failed(reason) => return self.event_log.record_failure(address, reason),
            NodeEvent::Report(report) => {
                if let Err(error) = self.reports.update(&address, report) {
                    tracing::error!(address, %error, "node ignored");
                    return self.event_log.record_failure(address, error.to_string());
                }
                self.event_log.record_report(&address);
            }
            NodeEvent::Lost => self.reports.remove(&address),
        }
        self.update_tasks();
        self.update_current_region();
        self.publish();
    }

    /// Starts and ends the tasks that watch and check nodes, so that they match the topology.
    fn update_tasks(&mut self) {
        let mut wanted: Vec<String> = self.reports.addresses().map(str::to_owned).collect();
        if !self.reports.has_node_report() {
            wanted.extend(self.settings.seeds.iter().cloned());
        }
        let reports = &mut self.reports;
        self.watchers.retain(|address, _| {
            let is_wanted = wanted.contains(address);
            if !is_wanted {
                reports.remove(address);
            }
            is_wanted
        });
        for address in wanted {
            let (events, dialer) = (
                self.event_sender.clone(),
                self.settings.connect.dialer.clone(),
            );
            self.watchers.entry(address).or_insert_with_key(|address| {
                spawn_guarded(watch_node(address.clone(), dialer, events))
            });
        }
        let reports = &self.reports;
        let is_present = |node: &Arc<Node>| reports.nodes().any(|other| Arc::ptr_eq(node, other));
        self.health_checks.retain(|_, (node, _)| is_present(node));
        for node in reports.nodes() {
            let interval = self.settings.check_interval;
            self.health_checks.entry(node.id).or_insert_with(|| {
                (
                    node.clone(),
                    spawn_guarded(run_health_checks(node.clone(), interval)),
                )
            });
        }
    }

    /// Compares the regions, and logs the choice of the current one.
    fn update_current_region(&mut self) {
        let now = Instant::now();
        let watched: Vec<String> = self.watchers.keys().cloned().collect();
        let has_report = self.reports.has_any_report();
        self.event_log.check_silence(now, has_report, &watched);
        self.event_log.check_regions(now, &self.reports.regions());
        let home = self.reports.region_number(&self.settings.home_region);
        let samples = self.reports.samples();
        let Some(current) = self.choice.update(now, &samples, home) else {
            return;
        };
        let before = std::mem::replace(&mut self.current, current);
        if before != current {
            self.publish();
        }
        if let Some(decision) = self.choice.take_decision() {
            log_region_decision(&decision, |number| self.reports.region_name(number));
        }
    }

    fn publish(&self) {
        if let Some(view) = self.reports.view(self.current) {
            self.view.store(Some(Arc::new(view)));
        }
    }
}

/// Spawns a future that runs until the guard is dropped.
fn spawn_guarded(future: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(stop.clone().run_until_cancelled_owned(future));
    stop.drop_guard()
}

/// Watches the node at an address for ever, and sends its events.
async fn watch_node(address: String, dialer: Dialer, events: EventSender) {
    let mut backoff = RETRY_BACKOFF.0;
    loop {
        let opened = tokio::time::timeout(2 * CONNECT_TIMEOUT, open_watch(&address, &dialer)).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no response in time"))) {
            Ok((first, reports)) => {
                backoff = RETRY_BACKOFF.0;
                let error = forward_reports(&address, first, reports, &events).await;
                tracing::debug!(address, %error, "topology stream ended");
                if events
                    .send((address.clone(), NodeEvent::Lost))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                let status = dialer.diagnose(&address, error).await;
                let reason = status.message().to_owned();
                if events
                    .send((address.clone(), NodeEvent::Failed(reason)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (2 * backoff).min(RETRY_BACKOFF.1);
    }
}

/// Forwards a node's reports, from the first on, until the stream ends, and returns the reason.
async fn forward_reports(
    address: &str,
    first: pb::Topology,
    mut reports: Streaming<pb::Topology>,
    events: &EventSender,
) -> Status {
    let mut report = first;
    loop {
        if events
            .send((address.to_owned(), NodeEvent::Report(report)))
            .await
            .is_err()
        {
            return Status::cancelled("the follower has stopped");
        }
        report = match tokio::time::timeout(REPORT_TIMEOUT, reports.message()).await {
            Ok(Ok(Some(report))) => report,
            Ok(Ok(None)) => return Status::unavailable("the node ended the stream"),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no report in time"),
        };
    }
}

/// Opens a node's stream of reports, and reads the first one: what isn't a node's rpc port refuses
/// the stream only then.
async fn open_watch(
    address: &str,
    dialer: &Dialer,
) -> Result<(pb::Topology, Streaming<pb::Topology>), Status> {
    let configure = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT);
    let channel = dialer.channel(address, configure).await?;
    let watch = NodeClient::new(channel)
        .watch(pb::TopologyRequest {})
        .await?;
    let mut reports = watch.into_inner();
    let first = reports.message().await?;
    let first = first.ok_or_else(|| Status::unavailable("the node ended the stream"))?;
    Ok((first, reports))
}
