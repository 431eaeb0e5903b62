//! The other nodes: where each is, and the links to it.

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

/// A snapshot of which no frame is taken for this long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);
/// Time that the other side has to flush a snapshot and to take it over.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(120);
/// Time for a node to say who it is.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the answer to a join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How other nodes are called.
#[derive(Clone)]
pub struct PeersSettings {
    /// The cluster.
    pub cluster_id: String,
    /// This node.
    pub me: NodeId,
    /// Connects to them.
    pub dialer: Dialer,
    /// Bounds of each link.
    pub link: LinkSettings,
    /// Where lanes run.
    pub runtimes: Runtimes,
}

/// The other nodes of the cluster.
pub struct Peers {
    settings: PeersSettings,
    book: RwLock<HashMap<NodeId, Peer>>,
    /// Whether somebody has called under a number that isn't in the book.
    stranger: AtomicBool,
}

struct Peer {
    address: watch::Sender<String>,
    /// Whether it is of this node's region.
    near: AtomicBool,
    /// Whether it has said that it must not lead.
    unfit: AtomicBool,
    raft: Link,
    /// One for each thread that serves users.
    keys: Vec<Link>,
    /// Made when it is first needed: nodes of one region send each other no changes.
    geo: OnceLock<Link>,
}

impl Peer {
    /// The link of this thread.
    fn keys(&self) -> Option<&Link> {
        let mine = self.keys.get(current_worker());
        mine.or_else(|| self.keys.first())
    }
}

impl Peers {
    /// Nobody known yet.
    pub fn new(settings: PeersSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            book: RwLock::default(),
            stranger: AtomicBool::new(false),
        })
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.settings.me
    }

    /// A node is reached at `address` (`host:port`) from now on. Ignored for this node itself.
    pub fn learn(&self, node: NodeId, address: &str) {
        if node == self.settings.me || address.is_empty() {
            return;
        }
        if let Some(peer) = self.book.read().get(&node) {
            peer.address.send_if_modified(|known| {
                let new = *known != address;
                address.clone_into(known);
                new
            });
            return;
        }
        let mut book = self.book.write();
        book.entry(node)
            .or_insert_with(|| self.connect(node, address.to_owned()));
    }

    /// Whether a node is of this node's region.
    pub fn set_near(&self, node: NodeId, near: bool) {
        if let Some(peer) = self.book.read().get(&node) {
            peer.near.store(near, Ordering::Release);
        }
    }

    /// A node has said whether it may lead.
    pub fn set_may_lead(&self, node: NodeId, may: bool) {
        if let Some(peer) = self.book.read().get(&node) {
            peer.unfit.store(!may, Ordering::Release);
        }
    }

    /// Whether a node may be handed leadership: it hasn't said that it must not lead.
    pub fn may_lead(&self, node: NodeId) -> bool {
        let book = self.book.read();
        book.get(&node)
            .is_some_and(|peer| !peer.unfit.load(Ordering::Acquire))
    }

    /// A node has left: nobody calls it any more.
    pub fn forget(&self, node: NodeId) {
        self.book.write().remove(&node);
    }

    /// Somebody has called under a number that isn't known here.
    pub(super) fn note_stranger(&self) {
        self.stranger.store(true, Ordering::Release);
    }

    /// Whether somebody has called under a number that wasn't known here, since this was taken note
    /// of.
    pub fn has_stranger(&self) -> bool {
        self.stranger.load(Ordering::Acquire)
    }

    /// Takes note of that.
    pub fn take_stranger(&self) -> bool {
        self.stranger.swap(false, Ordering::AcqRel)
    }

    /// Whether the host of any node that is known is as asked for.
    pub(super) fn any_at(&self, is_it: impl Fn(&str) -> bool) -> bool {
        let book = self.book.read();
        book.values()
            .any(|peer| host_of(&peer.address.borrow()).is_some_and(&is_it))
    }

    /// Whom this node knows.
    pub fn known(&self) -> Vec<NodeId> {
        self.book.read().keys().copied().collect()
    }

    /// Those of this node's region.
    pub fn near(&self) -> Vec<NodeId> {
        let book = self.book.read();
        let near = book.iter();
        let near = near.filter(|(_, peer)| peer.near.load(Ordering::Acquire));
        near.map(|(node, _)| *node).collect()
    }

    fn connect(&self, node: NodeId, address: String) -> Peer {
        let (address, changes) = watch::channel(address);
        let link = |lane, runtime, room: &Room| {
            let (changes, room) = (changes.clone(), room.clone());
            self.link(node, lane, changes, runtime, room)
        };
        let runtimes = &self.settings.runtimes;
        // What waits is bounded for the peer, however many threads call it.
        let (raft, keys) = (self.room(), self.room());
        Peer {
            raft: link(Lane::Raft, &runtimes.raft, &raft),
            keys: runtimes
                .workers
                .iter()
                .map(|runtime| link(Lane::Keys, runtime, &keys))
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
        lane: Lane,
        address: watch::Receiver<String>,
        runtime: &Handle,
        room: Room,
    ) -> Link {
        let (dialer, mut settings) = (self.settings.dialer.clone(), self.settings.link);
        if lane == Lane::Keys {
            // All links of the lane together may have as many calls.
            settings.calls = (settings.calls / self.settings.runtimes.workers.len().max(1)).max(1);
        }
        let greeting = self.greeting(node);
        Link::start(runtime, dialer, greeting, lane, address, settings, room)
    }

    fn room(&self) -> Room {
        Room::of(&self.settings.link)
    }

    /// Sends a call; the reply comes later. Calls of one caller to one node and lane arrive in
    /// their order.
    pub fn start(
        &self,
        node: NodeId,
        lane: Lane,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<PendingReply, CallError> {
        let book = self.book.read();
        let peer = book.get(&node).ok_or(CallError::Unsent)?;
        let link = match lane {
            Lane::Raft => &peer.raft,
            // Only routers call on the lane for users.
            Lane::Keys | Lane::Users => peer.keys().ok_or(CallError::Unsent)?,
            Lane::Geo => peer.geo.get_or_init(|| {
                let address = peer.address.subscribe();
                let rest = &self.settings.runtimes.rest;
                self.link(node, Lane::Geo, address, rest, self.room())
            }),
        };
        link.call(body, timeout)
    }

    /// Sends a call and waits for its reply.
    pub async fn call(
        &self,
        node: NodeId,
        lane: Lane,
        body: pb::call::Body,
        timeout: Duration,
    ) -> Result<pb::reply::Body, CallError> {
        self.start(node, lane, body, timeout)?.wait().await
    }

    /// Whether there is a connection to a node; changes when it comes or goes.
    pub fn connected(&self, node: NodeId, lane: Lane) -> Option<watch::Receiver<bool>> {
        let book = self.book.read();
        let peer = book.get(&node)?;
        Some(match lane {
            Lane::Raft => peer.raft.connected(),
            Lane::Keys | Lane::Users => peer.keys()?.connected(),
            Lane::Geo => peer.geo.get()?.connected(),
        })
    }

    /// The address that a node advertises, if it is known.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let book = self.book.read();
        book.get(&node).map(|peer| peer.address.borrow().clone())
    }

    /// A node as operators know it: the address that it advertises, or its number if none is known.
    pub fn name_of(&self, node: NodeId) -> String {
        self.address_of(node)
            .unwrap_or_else(|| format!("node {node}"))
    }

    /// Whether a node's address is known.
    pub fn knows(&self, node: NodeId) -> bool {
        self.book.read().contains_key(&node)
    }

    /// Opens a stream for a snapshot to a node, on a connection of its own. Nothing but the answers
    /// tells whether it moves: a keep-alive would wait behind the snapshot's own chunks.
    pub async fn send_snapshot(
        &self,
        node: NodeId,
        frames: impl Stream<Item = pb::SnapshotFrame> + Send + 'static,
    ) -> Result<Streaming<pb::SnapshotAck>, Status> {
        let (mut client, request) = self.snapshot_client(node, frames).await?;
        Ok(client.send_snapshot(request).await?.into_inner())
    }

    /// Sends a snapshot to a node whose version acknowledges no chunks. It fails when nothing moves
    /// for [`SNAPSHOT_STALL`].
    pub async fn install_snapshot(
        &self,
        node: NodeId,
        frames: impl Stream<Item = pb::SnapshotFrame> + Send + 'static,
    ) -> Result<pb::SnapshotReply, Status> {
        let (moved, watched) = watch::channel(());
        let frames = frames.inspect(move |_| {
            moved.send_replace(());
        });
        let (mut client, request) = self.snapshot_client(node, frames).await?;
        tokio::select! {
            reply = client.install_snapshot(request) => Ok(reply?.into_inner()),
            () = stalled(watched) => Err(Status::deadline_exceeded("the snapshot stands still")),
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

    /// All that the shard of another region has, as its leader sends it.
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

    /// A connection of its own to a node.
    async fn channel(
        &self,
        node: NodeId,
        shape: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Status> {
        let address = self
            .address_of(node)
            .ok_or_else(|| Status::unavailable("the node is unknown"))?;
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

/// Ends when nothing was sent for [`SNAPSHOT_STALL`].
async fn stalled(mut watched: watch::Receiver<()>) {
    while let Ok(Ok(())) = tokio::time::timeout(SNAPSHOT_STALL, watched.changed()).await {}
    // All was sent: the other side flushes, and takes it over.
    if watched.has_changed().is_err() {
        tokio::time::sleep(SNAPSHOT_INSTALL).await;
    }
}

/// Asks the node at `address` who it is, which nodes it knows, and whether it knows that node `asks`
/// was removed; 0: no node asks.
pub async fn identify(
    dialer: &Dialer,
    address: &str,
    asks: NodeId,
) -> Result<pb::IdentifyResponse, Status> {
    let ask = async {
        let channel = dialer.channel(address, bounded).await?;
        let answer = NodeClient::new(channel)
            .identify(pb::IdentifyRequest {
                node_id: asks,
                nodes: asks != 0,
            })
            .await?;
        Ok(answer.into_inner())
    };
    in_time(IDENTIFY_TIMEOUT, ask).await
}

/// Asks the node at `address` to take this one in.
pub async fn join(
    dialer: &Dialer,
    address: &str,
    request: pb::JoinRequest,
) -> Result<pb::JoinResponse, Status> {
    let ask = async {
        let channel = dialer.channel(address, bounded).await?;
        let joined = NodeClient::new(channel).join(request).await?;
        Ok(joined.into_inner())
    };
    match in_time(JOIN_TIMEOUT, ask).await {
        Ok(joined) => Ok(joined),
        Err(status) => Err(dialer.explain(address, status).await),
    }
}

async fn in_time<T>(
    timeout: Duration,
    ask: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let asked = tokio::time::timeout(timeout, ask).await;
    asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came")))
}
