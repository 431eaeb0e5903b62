//! The other nodes: their addresses, and the RPC clients to call them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloudkv_common::byte_budget::ByteBudget;
use cloudkv_common::hosts::host_of;
use cloudkv_common::server::current_worker;
use cloudkv_common::transport::tls::Dialer;
use cloudkv_common::transport::{
    CallError, Greeting, PendingReply, RpcClient, RpcClientSettings, StreamKind, StreamProtocol,
    with_keep_alive, without_keep_alive,
};
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use futures_util::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::runtimes::RpcRuntimes;
use crate::types::NodeId;

/// Time without progress after which sending a snapshot fails.
const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that the receiver of a snapshot has to flush and install it.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
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
    pub client: RpcClientSettings,
    /// Runtimes on which the clients run.
    pub runtimes: RpcRuntimes,
}

/// The other nodes of the cluster.
pub struct Peers {
    settings: PeersSettings,
    peers_by_number: RwLock<HashMap<NodeId, PeerClients>>,
    /// Set when a caller has claimed a node number that isn't known here.
    unknown_caller: AtomicBool,
}

struct PeerClients {
    address: watch::Sender<String>,
    /// True if the node is in this node's region.
    is_same_region: AtomicBool,
    /// True if the node has announced that it must not lead.
    must_not_lead: AtomicBool,
    raft: RpcClient,
    /// One client for each thread that serves users.
    keys: Vec<RpcClient>,
    /// Created when it is first needed: nodes of one region send each other no changes.
    geo: OnceLock<RpcClient>,
}

impl PeerClients {
    /// Returns the client of this thread for forwarded requests.
    fn keys_client(&self) -> Option<&RpcClient> {
        let own_client = self.keys.get(current_worker());
        own_client.or_else(|| self.keys.first())
    }
}

impl Peers {
    /// Creates an empty set of nodes.
    pub fn new(settings: PeersSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            peers_by_number: RwLock::default(),
            unknown_caller: AtomicBool::new(false),
        })
    }

    /// Returns the number of this node.
    pub fn me(&self) -> NodeId {
        self.settings.me
    }

    /// Sets the address (`host:port`) of a node, which is added if it is new. Ignored for this node
    /// itself.
    pub fn set_address(&self, node: NodeId, address: &str) {
        if node == self.settings.me || address.is_empty() {
            return;
        }
        if let Some(peer) = self.peers_by_number.read().get(&node) {
            peer.address.send_if_modified(|current| {
                let is_changed = *current != address;
                address.clone_into(current);
                is_changed
            });
            return;
        }
        let mut peers = self.peers_by_number.write();
        peers
            .entry(node)
            .or_insert_with(|| self.connect(node, address.to_owned()));
    }

    /// Sets whether a node is in this node's region.
    pub fn set_same_region(&self, node: NodeId, same_region: bool) {
        if let Some(peer) = self.peers_by_number.read().get(&node) {
            peer.is_same_region.store(same_region, Ordering::Release);
        }
    }

    /// Sets whether a node may lead, as it has announced.
    pub fn set_may_lead(&self, node: NodeId, may_lead: bool) {
        if let Some(peer) = self.peers_by_number.read().get(&node) {
            peer.must_not_lead.store(!may_lead, Ordering::Release);
        }
    }

    /// Returns whether leadership may be transferred to a node: it is known, and hasn't announced
    /// that it must not lead.
    pub fn may_lead(&self, node: NodeId) -> bool {
        let peers = self.peers_by_number.read();
        peers
            .get(&node)
            .is_some_and(|peer| !peer.must_not_lead.load(Ordering::Acquire))
    }

    /// Removes a node that was removed from the cluster, and closes its clients.
    pub fn remove(&self, node: NodeId) {
        self.peers_by_number.write().remove(&node);
    }

    /// Notes that a caller has claimed a node number that isn't known here.
    pub(super) fn note_unknown_caller(&self) {
        self.unknown_caller.store(true, Ordering::Release);
    }

    /// Returns whether a caller has claimed an unknown node number since the last
    /// [`Peers::take_unknown_caller`].
    pub fn has_unknown_caller(&self) -> bool {
        self.unknown_caller.load(Ordering::Acquire)
    }

    /// Returns whether a caller has claimed an unknown node number, and resets that.
    pub fn take_unknown_caller(&self) -> bool {
        self.unknown_caller.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the host of any known node satisfies a predicate.
    pub(super) fn any_host(&self, predicate: impl Fn(&str) -> bool) -> bool {
        let peers = self.peers_by_number.read();
        peers
            .values()
            .any(|peer| host_of(&peer.address.borrow()).is_some_and(&predicate))
    }

    /// Returns the numbers of the other nodes.
    pub fn node_numbers(&self) -> Vec<NodeId> {
        self.peers_by_number.read().keys().copied().collect()
    }

    /// Returns the numbers of the other nodes of this node's region.
    pub fn same_region(&self) -> Vec<NodeId> {
        let peers = self.peers_by_number.read();
        let same_region = peers.iter();
        let same_region =
            same_region.filter(|(_, peer)| peer.is_same_region.load(Ordering::Acquire));
        same_region.map(|(node, _)| *node).collect()
    }

    /// Returns whether a node is known to be in this node's region.
    pub fn is_same_region(&self, node: NodeId) -> bool {
        let peers = self.peers_by_number.read();
        let peer = peers.get(&node);
        peer.is_some_and(|peer| peer.is_same_region.load(Ordering::Acquire))
    }

    fn connect(&self, node: NodeId, address: String) -> PeerClients {
        let (address, changes) = watch::channel(address);
        let client = |kind, runtime, budget: &ByteBudget| {
            let (changes, budget) = (changes.clone(), budget.clone());
            self.start_client(node, kind, changes, runtime, budget)
        };
        let runtimes = &self.settings.runtimes;
        // Queued calls are bounded for each node, however many threads call it.
        let (raft_budget, keys_budget) = (self.queue_budget(), self.queue_budget());
        PeerClients {
            raft: client(StreamKind::Raft, &runtimes.raft, &raft_budget),
            keys: runtimes
                .workers
                .iter()
                .map(|runtime| client(StreamKind::Forwarded, runtime, &keys_budget))
                .collect(),
            geo: OnceLock::new(),
            is_same_region: AtomicBool::new(false),
            must_not_lead: AtomicBool::new(false),
            address,
        }
    }

    fn start_client(
        &self,
        node: NodeId,
        kind: StreamKind,
        address: watch::Receiver<String>,
        runtime: &Handle,
        budget: ByteBudget,
    ) -> RpcClient {
        let (dialer, mut settings) = (self.settings.dialer.clone(), self.settings.client);
        if kind == StreamKind::Forwarded {
            // The limit of calls is shared by the clients of all threads.
            settings.max_calls =
                (settings.max_calls / self.settings.runtimes.workers.len().max(1)).max(1);
        }
        let (greeting, protocol) = (self.greeting(node), StreamProtocol::Grpc(kind));
        RpcClient::start(
            runtime, dialer, greeting, protocol, address, settings, budget,
        )
    }

    fn queue_budget(&self) -> ByteBudget {
        ByteBudget::new(self.settings.client.max_queue_bytes)
    }

    /// Sends a call without waiting for its reply. Calls of one caller to one node on streams of
    /// one kind arrive in their order.
    pub fn start_call(
        &self,
        node: NodeId,
        kind: StreamKind,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<PendingReply, CallError> {
        let peers = self.peers_by_number.read();
        let peer = peers.get(&node).ok_or(CallError::Unsent)?;
        let client = match kind {
            StreamKind::Raft => &peer.raft,
            StreamKind::Forwarded => peer.keys_client().ok_or(CallError::Unsent)?,
            StreamKind::Geo => peer.geo.get_or_init(|| {
                let address = peer.address.subscribe();
                let rest = &self.settings.runtimes.general;
                self.start_client(node, StreamKind::Geo, address, rest, self.queue_budget())
            }),
        };
        client.call(body, timeout)
    }

    /// Sends a call and waits for its reply.
    pub async fn call(
        &self,
        node: NodeId,
        kind: StreamKind,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<pb::reply::Body, CallError> {
        self.start_call(node, kind, body, timeout)?.wait().await
    }

    /// Watches whether there is a connection to a node.
    pub fn watch_connection(
        &self,
        node: NodeId,
        kind: StreamKind,
    ) -> Option<watch::Receiver<bool>> {
        let peers = self.peers_by_number.read();
        let peer = peers.get(&node)?;
        Some(match kind {
            StreamKind::Raft => peer.raft.connected(),
            StreamKind::Forwarded => peer.keys_client()?.connected(),
            StreamKind::Geo => peer.geo.get()?.connected(),
        })
    }

    /// Returns why there is no connection to a node for Raft and heartbeats; `None` if there is
    /// one, or no attempt to connect has failed.
    pub fn connection_failure(&self, node: NodeId) -> Option<String> {
        self.peers_by_number.read().get(&node)?.raft.failure()
    }

    /// Returns the address that a node advertises, if it is known.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let peers = self.peers_by_number.read();
        peers.get(&node).map(|peer| peer.address.borrow().clone())
    }

    /// Returns the name by which operators know a node: the address that it advertises, or its
    /// number if none is known.
    pub fn name_of(&self, node: NodeId) -> String {
        self.address_of(node)
            .unwrap_or_else(|| format!("node {node}"))
    }

    /// Returns whether a node's address is known.
    pub fn contains(&self, node: NodeId) -> bool {
        self.peers_by_number.read().contains_key(&node)
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
            () = wait_for_stall(progress) => {
                Err(Status::deadline_exceeded("send snapshot: no progress within the timeout"))
            }
        }
    }

    async fn snapshot_client<S>(
        &self,
        node: NodeId,
        frames: S,
    ) -> Result<(NodeClient<Channel>, Request<S>), Status> {
        let channel = self.open_channel(node, without_keep_alive).await?;
        let mut request = Request::new(frames);
        self.greeting(node)
            .write_metadata(StreamKind::Raft, request.metadata_mut())?;
        let limit = self.settings.client.max_message_bytes;
        let client = NodeClient::new(channel).max_encoding_message_size(limit);
        Ok((client, request))
    }

    /// Opens a bulk copy of another region's shard, from its leader.
    pub async fn open_bulk_copy(
        &self,
        node: NodeId,
        request: pb::BulkCopyRequest,
    ) -> Result<Streaming<pb::BulkCopyFrame>, Status> {
        let channel = self.open_channel(node, with_keep_alive).await?;
        let mut request = Request::new(request);
        let greeting = self.greeting(node);
        greeting.write_metadata(StreamKind::Geo, request.metadata_mut())?;
        let limit = self.settings.client.max_message_bytes;
        let client = NodeClient::new(channel).max_decoding_message_size(limit);
        let mut client = client.accept_compressed(CompressionEncoding::Zstd);
        Ok(client.walk(request).await?.into_inner())
    }

    /// Opens a scan of a bucket in a shard of this region, at its leader.
    pub async fn open_scan(
        &self,
        node: NodeId,
        request: pb::ScanRequest,
    ) -> Result<Streaming<pb::ScanFrame>, Status> {
        let channel = self.open_channel(node, with_keep_alive).await?;
        let mut request = Request::new(request);
        let greeting = self.greeting(node);
        greeting.write_metadata(StreamKind::Geo, request.metadata_mut())?;
        let limit = self.settings.client.max_message_bytes;
        let mut client = NodeClient::new(channel).max_decoding_message_size(limit);
        Ok(client.scan_bucket(request).await?.into_inner())
    }

    /// Opens a scan of a shard of this region, at its leader.
    pub async fn open_shard_scan(
        &self,
        node: NodeId,
        request: pb::ShardScanRequest,
    ) -> Result<Streaming<pb::ShardScanFrame>, Status> {
        let channel = self.open_channel(node, with_keep_alive).await?;
        let mut request = Request::new(request);
        let greeting = self.greeting(node);
        greeting.write_metadata(StreamKind::Geo, request.metadata_mut())?;
        let limit = self.settings.client.max_message_bytes;
        let mut client = NodeClient::new(channel).max_decoding_message_size(limit);
        Ok(client.scan_shard(request).await?.into_inner())
    }

    /// Opens a separate connection to a node.
    async fn open_channel(
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
async fn wait_for_stall(mut progress: watch::Receiver<()>) {
    while let Ok(Ok(())) = tokio::time::timeout(SNAPSHOT_STALL_TIMEOUT, progress.changed()).await {}
    // All was sent: the receiver flushes and installs the snapshot.
    if progress.has_changed().is_err() {
        tokio::time::sleep(SNAPSHOT_INSTALL_TIMEOUT).await;
    }
}

/// Asks the node at `address` for its identity, the nodes that it knows, and whether it knows that
/// node `caller` was removed; `None`: the caller is no node.
pub(crate) async fn identify(
    dialer: &Dialer,
    address: &str,
    caller: Option<NodeId>,
) -> Result<pb::IdentifyResponse, Status> {
    let request = async {
        let channel = dialer.channel(address, with_keep_alive).await?;
        let response = NodeClient::new(channel)
            .identify(pb::IdentifyRequest {
                node_id: caller.map_or(0, u64::from),
                nodes: caller.is_some(),
            })
            .await?;
        Ok(response.into_inner())
    };
    with_timeout(IDENTIFY_TIMEOUT, request).await
}

/// Asks the node at `address` to let this node join its cluster.
pub(crate) async fn join(
    dialer: &Dialer,
    address: &str,
    request: pb::JoinRequest,
) -> Result<pb::JoinResponse, Status> {
    let join = async {
        let channel = dialer.channel(address, with_keep_alive).await?;
        let response = NodeClient::new(channel).join(request).await?;
        Ok(response.into_inner())
    };
    match with_timeout(JOIN_TIMEOUT, join).await {
        Ok(response) => Ok(response),
        Err(status) => Err(dialer.diagnose(address, status).await),
    }
}

async fn with_timeout<T>(
    timeout: Duration,
    request: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let response = tokio::time::timeout(timeout, request).await;
    response.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within the timeout")))
}
