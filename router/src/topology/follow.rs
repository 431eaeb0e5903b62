//! Listens to all nodes, and publishes what they tell.
//!
//! The seeds are only asked until a node is heard at its own address, and again when none is any
//! more. What was once known of the cluster is kept, so that a router goes on when its seeds are
//! gone.

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
/// A node that says nothing for this long isn't heard any more: it gives signs of life more often.
const SILENT: Duration = Duration::from_secs(3);
/// Between tries to listen to a node.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often regions are compared.
const LOOK: Duration = Duration::from_millis(100);
/// Reports that may wait.
const WAITING: usize = 64;

/// How the cluster is followed.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// Whom to ask first, `host:port` each.
    pub seeds: Vec<String>,
    /// The region that the router is in.
    pub home: String,
    /// How nodes are reached.
    pub reach: Reach,
    /// How often a node is checked.
    pub check_interval: Duration,
}

/// What is told of the node at an address.
enum Told {
    /// What it said.
    Said(pb::Topology),
    /// It isn't heard any more.
    Lost,
    /// It couldn't be listened to, and why.
    Failed(String),
}

/// What those who listen to nodes tell, with the address.
type Tell = mpsc::Sender<(String, Told)>;

/// Follows the cluster.
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
    /// A follower that will publish to `view`.
    pub fn new(settings: FollowerSettings, view: Arc<ArcSwapOption<View>>) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        Self {
            reports: Reports::new(settings.reach.clone()),
            settings,
            choice: Choice::default(),
            current: 0,
            view,
            tell,
            told,
            journal: Journal::new(),
            listening: HashMap::new(),
            checking: HashMap::new(),
        }
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                told = self.told.recv() => if let Some(told) = told {
                    self.take(told);
                },
                _ = look.tick() => self.look(),
            }
        }
    }

    fn take(&mut self, (address, told): (String, Told)) {
        match told {
            Told::Failed(why) => return self.journal.failed(address, why),
            Told::Said(report) => {
                self.journal.heard(&address);
                if let Err(error) = self.reports.take(&address, report) {
                    tracing::error!(address, %error, "a node is left out");
                    return;
                }
            }
            Told::Lost => self.reports.lose(&address),
        }
        self.settle();
        self.look();
        self.publish();
    }

    /// Listens to whom it should, and to nobody else; checks the nodes that there are.
    fn settle(&mut self) {
        let mut wanted: Vec<String> = self.reports.addresses().map(str::to_owned).collect();
        if !self.reports.hears_a_node() {
            wanted.extend(self.settings.seeds.iter().cloned());
        }
        let reports = &mut self.reports;
        self.listening.retain(|address, _| {
            let stays = wanted.contains(address);
            if !stays {
                reports.lose(address);
            }
            stays
        });
        for address in wanted {
            let (tell, dialer) = (self.tell.clone(), self.settings.reach.dialer.clone());
            self.listening
                .entry(address)
                .or_insert_with_key(|address| start(listen(address.clone(), dialer, tell)));
        }
        let reports = &self.reports;
        let is_there = |node: &Arc<Node>| reports.nodes().any(|other| Arc::ptr_eq(node, other));
        self.checking.retain(|_, (node, _)| is_there(node));
        for node in reports.nodes() {
            let every = self.settings.check_interval;
            self.checking
                .entry(node.id)
                .or_insert_with(|| (node.clone(), start(check(node.clone(), every))));
        }
    }

    /// Compares the regions, and says so when another one is the current one from now on.
    fn look(&mut self) {
        let now = Instant::now();
        let asked: Vec<String> = self.listening.keys().cloned().collect();
        let hears = self.reports.hears_anybody();
        self.journal.look_at_silence(now, hears, &asked);
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
                tracing::warn!(from, to, "the global name stands for another region now");
            }
        }
    }

    fn publish(&self) {
        if let Some(view) = self.reports.view(self.current) {
            self.view.store(Some(Arc::new(view)));
        }
    }
}

/// Runs something until the guard is dropped.
fn start(future: impl Future<Output = ()> + Send + 'static) -> DropGuard {
    let stop = CancellationToken::new();
    tokio::spawn(stop.clone().run_until_cancelled_owned(future));
    stop.drop_guard()
}

/// Tells what the node at an address says, and when it isn't heard any more, for ever.
async fn listen(address: String, dialer: Dialer, tell: Tell) {
    let mut pause = RETRY.0;
    loop {
        let opened = tokio::time::timeout(2 * CONNECT_TIMEOUT, open(&address, &dialer)).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came"))) {
            Ok(reports) => {
                pause = RETRY.0;
                let ended = hear(&address, reports, &tell).await;
                tracing::debug!(address, %ended, "a node isn't heard any more");
                if tell.send((address.clone(), Told::Lost)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let why = dialer.explain(&address, error).await;
                let why = why.message().to_owned();
                if tell
                    .send((address.clone(), Told::Failed(why)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RETRY.1);
    }
}

/// Passes on what a node says until it ends; tells why it did.
async fn hear(address: &str, mut reports: Streaming<pb::Topology>, tell: &Tell) -> Status {
    loop {
        let report = match tokio::time::timeout(SILENT, reports.message()).await {
            Ok(Ok(Some(report))) => report,
            Ok(Ok(None)) => return Status::unavailable("the node ended the stream"),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("no sign of life came"),
        };
        if tell
            .send((address.to_owned(), Told::Said(report)))
            .await
            .is_err()
        {
            return Status::cancelled("nobody listens");
        }
    }
}

async fn open(address: &str, dialer: &Dialer) -> Result<Streaming<pb::Topology>, Status> {
    let bounds = |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT);
    let channel = dialer.channel(address, bounds).await?;
    let watch = NodeClient::new(channel)
        .watch(pb::TopologyRequest {})
        .await?;
    Ok(watch.into_inner())
}
