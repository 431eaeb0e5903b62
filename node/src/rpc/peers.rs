//! The other nodes: their addresses, and the RPC clients to call them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloudkv_common::rpc::{
    CallError, Greeting, Lane, Link, LinkSettings, PendingReply, Room, bounded, unwatched,
};
use cloudkv_common::server::current_worker;
use cloudkv_proto::tls::{Dialer, host_of};
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use futures_util::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::server::Runtimes;
use crate::raft::NodeId;

/// Time without progress after which sending a snapshot fails.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);
/// Time that the receiver of a snapshot has to flush and install it.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(120);
/// Timeout of asking a node for its identity.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a request to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the clients that call other nodes.
#[derive(Clone)]
pub struct PeersSettings {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Number of this node.
    pub me: NodeId,
    /// Connects to other nodes.
    pub dialer: Dialer,
    /// Bounds of each RPC client.
    pub link: LinkSettings,
    /// Runtimes on which the clients run.
    pub runtimes: Runtimes,
}

/// The other nodes of the cluster.
pub struct Peers {
    settings: PeersSettings,
    book: RwLock<HashMap<NodeId, Peer>>,
    /// Set when a caller has claimed a node number that isn't known here.
    stranger: AtomicBool,
}

struct Peer {
    address: watch::Sender<String>,
    /// True if the node is in this node's region.
    near: AtomicBool,
    /// True if the node has announced that it must not lead.
    unfit: AtomicBool,
    raft: Link,
    /// One client for each thread that serves users.
    keys: Vec<Link>,
    /// Created when it is first needed: nodes of one region send each other no changes.
    geo: OnceLock<Link>,
}

impl Peer {
    /// Returns the client of this thread for forwarded requests.
    fn keys(&self) -> Option<&Link> {
        let own_client = self.keys.get(current_worker());
        own_client.or_else(|| self.keys.first())
    }
}

impl Peers {
    /// Creates an empty set of nodes.
    pub fn new(settings: PeersSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            book: RwLock::default(),
            stranger: AtomicBool::new(false),
        })
    }

    /// Returns the number of this node.
    pub fn me(&self) -> NodeId {
        self.settings.me
    }

    /// Sets the address (`host:port`) of a node, which is added if it is new. Ignored for this node
    /// itself.
    pub fn learn(&self, node: NodeId, address: &str) {
        if node == self.settings.me || address.is_empty() {
            return;
        }
        if let Some(peer) = self.book.read().get(&node) {
            peer.address.send_if_modified(|current| {
                let is_changed = *current != address;
                address.clone_into(current);
                is_changed
            });
            return;
        }
        let mut peers = self.book.write();
        peers
            .entry(node)
            .or_insert_with(|| self.connect(node, address.to_owned()));
    }

    /// Sets whether a node is in this node's region.
    pub fn set_near(&self, node: NodeId, same_region: bool) {
        if let Some(peer) = self.book.read().get(&node) {
            peer.near.store(same_region, Ordering::Release);
        }
    }

    /// Sets whether a node may lead, as it has announced.
    pub fn set_may_lead(&self, node: NodeId, may_lead: bool) {
        if let Some(peer) = self.book.read().get(&node) {
            peer.unfit.store(!may_lead, Ordering::Release);
        }
    }

    /// Returns whether leadership may be transferred to a node: it is known, and hasn't announced
    /// that it must not lead.
    pub fn may_lead(&self, node: NodeId) -> bool {
        let peers = self.book.read();
        peers
            .get(&node)
            .is_some_and(|peer| !peer.unfit.load(Ordering::Acquire))
    }

    /// Removes a node that was removed from the cluster, and closes its clients.
    pub fn forget(&self, node: NodeId) {
        self.book.write().remove(&node);
    }

    /// Notes that a caller has claimed a node number that isn't known here.
    pub(super) fn note_stranger(&self) {
        self.stranger.store(true, Ordering::Release);
    }

    /// Returns whether a caller has claimed an unknown node number since the last
    /// [`Peers::take_unknown_caller`].
    pub fn has_stranger(&self) -> bool {
        self.stranger.load(Ordering::Acquire)
    }

    /// Returns whether a caller has claimed an unknown node number, and resets that.
    pub fn take_stranger(&self) -> bool {
        self.stranger.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the host of any known node satisfies a predicate.
    pub(super) fn any_at(&self, predicate: impl Fn(&str) -> bool) -> bool {
        let peers = self.book.read();
        peers
            .values()
            .any(|peer| host_of(&peer.address.borrow()).is_some_and(&predicate))
    }

    /// Returns the numbers of the other nodes.
    pub fn known(&self) -> Vec<NodeId> {
        self.book.read().keys().copied().collect()
    }

    /// Returns the numbers of the other nodes of this node's region.
    pub fn near(&self) -> Vec<NodeId> {
        let peers = self.book.read();
        let same_region = peers.iter();
        let same_region = same_region.filter(|(_, peer)| peer.near.load(Ordering::Acquire));
        same_region.map(|(node, _)| *node).collect()
    }

    fn connect(&self, node: NodeId, address: String) -> Peer {
        let (address, changes) = watch::channel(address);
        let client = |kind, runtime, budget: &Room| {
            let (changes, budget) = (changes.clone(), budget.clone());
            self.link(node, kind, changes, runtime, budget)
        };
        let runtimes = &self.settings.runtimes;
        // Queued calls are bounded for each node, however many threads call it.
        let (raft_budget, keys_budget) = (self.room(), self.room());
        Peer {
            raft: client(Lane::Raft, &runtimes.raft, &raft_budget),
            keys: runtimes
                .workers
                .iter()
                .map(|runtime| client(Lane::Keys, runtime, &keys_budget))
                .collect(),
            geo: OnceLock::new(),
            near: AtomicBool::new(false),
            unfit: AtomicBool::new(false),
            address,
        }
    }

    fn link(
        &self,
        node: NodeId,
        kind: Lane,
        address: watch::Receiver<String>,
        runtime: &Handle,
        budget: Room,
    ) -> Link {
        let (dialer, mut settings) = (self.settings.dialer.clone(), self.settings.link);
        if kind == Lane::Keys {
            // The limit of calls is shared by the clients of all threads.
            settings.calls = (settings.calls / self.settings.runtimes.workers.len().max(1)).max(1);
        }
        let greeting = self.greeting(node);
        Link::start(runtime, dialer, greeting, kind, address, settings, budget)
    }

    fn room(&self) -> Room {
        Room::of(&self.settings.link)
    }

    /// Sends a call without waiting for its reply. Calls of one caller to one node on streams of
    /// one kind arrive in their order.
    pub fn start(
        &self,
        node: NodeId,
        kind: Lane,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<PendingReply, CallError> {
        let peers = self.book.read();
        let peer = peers.get(&node).ok_or(CallError::Unsent)?;
        let client = match kind {
            Lane::Raft => &peer.raft,
            // Only routers call on the streams for users' requests.
            Lane::Keys | Lane::Users => peer.keys().ok_or(CallError::Unsent)?,
            Lane::Geo => peer.geo.get_or_init(|| {
                let address = peer.address.subscribe();
                let rest = &self.settings.runtimes.rest;
                self.link(node, Lane::Geo, address, rest, self.room())
            }),
        };
        client.call(body, timeout)
    }

    /// Sends a call and waits for its reply.
    pub async fn call(
        &self,
        node: NodeId,
        kind: Lane,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<pb::reply::Body, CallError> {
        self.start(node, kind, body, timeout)?.wait().await
    }

    /// Watches whether there is a connection to a node.
    pub fn connected(&self, node: NodeId, kind: Lane) -> Option<watch::Receiver<bool>> {
        let peers = self.book.read();
        let peer = peers.get(&node)?;
        Some(match kind {
            Lane::Raft => peer.raft.connected(),
            Lane::Keys | Lane::Users => peer.keys()?.connected(),
            Lane::Geo => peer.geo.get()?.connected(),
        })
    }

    /// Returns the address that a node advertises, if it is known.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let peers = self.book.read();
        peers.get(&node).map(|peer| peer.address.borrow().clone())
    }

    /// Returns the name by which operators know a node: the address that it advertises, or its
    /// number if none is known.
    pub fn name_of(&self, node: NodeId) -> String {
        self.address_of(node)
            .unwrap_or_else(|| format!("node {node}"))
    }

    /// Returns whether a node's address is known.
    pub fn knows(&self, node: NodeId) -> bool {
        self.book.read().contains_key(&node)
    }

    /// Opens a stream for a snapshot to a node, on a connection of its own. Only the
    /// acknowledgements show whether it makes progress: a keepalive would wait behind the
    /// snapshot's own chunks.
    pub async fn send_snapshot(
        &self,
        node: NodeId,
        frames: impl Stream<Item = pb::SnapshotFrame> + Send + 'static,
    ) -> Result<Streaming<pb::SnapshotAck>, Status> {
        let (mut client, request) = self.snapshot_client(node, frames).await?;
        Ok(client.send_snapshot(request).await?.into_inner())
    }

    /// Sends a snapshot to a node whose version acknowledges no chunks. Fails without progress for
    /// [`SNAPSHOT_STALL_TIMEOUT`].
    pub async fn install_snapshot(
        &self,
        node: NodeId,
        frames: impl Stream<Item = pb::SnapshotFrame> + Send + 'static,
    ) -> Result<pb::SnapshotReply, Status> {
        let (sender, progress) = watch::channel(());
        let frames = frames.inspect(move |_| {
            sender.send_replace(());
        });
        let (mut client, request) = self.snapshot_client(node, frames).await?;
        tokio::select! {
            reply = client.install_snapshot(request) => Ok(reply?.into_inner()),
            () = stalled(progress) => {
                Err(Status::deadline_exceeded("send snapshot: no progress within the timeout"))
            }
        }
    }

    async fn snapshot_client<S>(
        &self,
        node: NodeId,
        frames: S,
    ) -> Result<(NodeClient<Channel>, Request<S>), Status> {
        let channel = self.channel(node, unwatched).await?;
        let mut request = Request::new(frames);
        self.greeting(node)
            .write(Lane::Raft, request.metadata_mut())?;
        let limit = self.settings.link.message_bytes;
        let client = NodeClient::new(channel).max_encoding_message_size(limit);
        Ok((client, request))
    }

    /// Opens a bulk copy of another region's shard, from its leader.
    pub async fn walk(
        &self,
        node: NodeId,
        request: pb::WalkRequest,
    ) -> Result<Streaming<pb::WalkFrame>, Status> {
        let channel = self.channel(node, bounded).await?;
        let mut request = Request::new(request);
        let greeting = self.greeting(node);
        greeting.write(Lane::Geo, request.metadata_mut())?;
        let limit = self.settings.link.message_bytes;
        let client = NodeClient::new(channel).max_decoding_message_size(limit);
        let mut client = client.accept_compressed(CompressionEncoding::Zstd);
        Ok(client.walk(request).await?.into_inner())
    }

    /// Opens a separate connection to a node.
    async fn channel(
        &self,
        node: NodeId,
        shape: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Status> {
        let address = self
            .address_of(node)
            .ok_or_else(|| Status::unavailable("connect to node: its address is unknown"))?;
        self.settings.dialer.channel(&address, shape).await
    }

    fn greeting(&self, node: NodeId) -> Greeting {
        Greeting {
            cluster_id: self.settings.cluster_id.clone(),
            from: self.settings.me,
            to: node,
        }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// Waits until nothing was sent for [`SNAPSHOT_STALL_TIMEOUT`].
async fn stalled(mut progress: watch::Receiver<()>) {
    while let Ok(Ok(())) = tokio::time::timeout(SNAPSHOT_STALL, progress.changed()).await {}
    // All was sent: the receiver flushes and installs the snapshot.
    if progress.has_changed().is_err() {
        tokio::time::sleep(SNAPSHOT_INSTALL).await;
    }
}

/// Asks the node at `address` for its identity, the nodes that it knows, and whether it knows that
/// node `caller` was removed; 0: the caller is no node.
pub async fn identify(
    dialer: &Dialer,
    address: &str,
    caller: NodeId,
) -> Result<pb::IdentifyResponse, Status> {
    let request = async {
        let channel = dialer.channel(address, bounded).await?;
        let response = NodeClient::new(channel)
            .identify(pb::IdentifyRequest {
                node_id: caller,
                nodes: caller != 0,
            })
            .await?;
        Ok(response.into_inner())
    };
    in_time(IDENTIFY_TIMEOUT, request).await
}

/// Asks the node at `address` to let this node join its cluster.
pub async fn join(
    dialer: &Dialer,
    address: &str,
    request: pb::JoinRequest,
) -> Result<pb::JoinResponse, Status> {
    let join = async {
        let channel = dialer.channel(address, bounded).await?;
        let response = NodeClient::new(channel).join(request).await?;
        Ok(response.into_inner())
    };
    match in_time(JOIN_TIMEOUT, join).await {
        Ok(response) => Ok(response),
        Err(status) => Err(dialer.explain(address, status).await),
    }
}

async fn in_time<T>(
    timeout: Duration,
    request: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let response = tokio::time::timeout(timeout, request).await;
    response.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within the timeout")))
}
