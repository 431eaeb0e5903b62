//! Header and topology of the cluster, as last written, with notification of changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use cloudkv_proto::v1 as pb;
use tokio::sync::watch;

use super::topology::Topology;

/// Cluster as readers see it.
#[derive(Debug)]
pub(super) struct ClusterView {
    header: ArcSwap<pb::MetaHeader>,
    topology: ArcSwap<Topology>,
    changes: watch::Sender<u64>,
    has_several_regions: AtomicBool,
}

impl Default for ClusterView {
    fn default() -> Self {
        Self {
            header: ArcSwap::default(),
            topology: ArcSwap::default(),
            changes: watch::Sender::new(0),
            has_several_regions: AtomicBool::new(false),
        }
    }
}

impl ClusterView {
    pub(super) fn header(&self) -> Arc<pb::MetaHeader> {
        self.header.load_full()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }

    /// Returns whether there are several regions: needed for every request.
    pub(super) fn has_several_regions(&self) -> bool {
        self.has_several_regions.load(Ordering::Relaxed)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Publishes a header, and a topology if it changed. A notified reader sees both.
    pub(super) fn publish(&self, header: pb::MetaHeader, topology: Option<Topology>) {
        let changed = !is_same_cluster(&self.header.load(), &header);
        if !changed && topology.is_none() {
            self.header.store(Arc::new(header));
            return;
        }
        let mut topology = topology.unwrap_or_else(|| Topology::clone(&self.topology.load()));
        topology.set_regions(&header);
        let has_several = header.regions.len() > 1;
        self.has_several_regions
            .store(has_several, Ordering::Relaxed);
        // The topology comes first: a reader that finds the cluster bootstrapped finds its nodes,
        // too.
        self.topology.store(Arc::new(topology));
        self.header.store(Arc::new(header));
        self.changes.send_modify(|change| *change += 1);
    }
}

/// Returns whether two headers differ at most in the digest, which every command changes.
fn is_same_cluster(a: &pb::MetaHeader, b: &pb::MetaHeader) -> bool {
    let key = |header: &pb::MetaHeader| (header.shards, header.level, header.removal_round);
    key(a) == key(b)
        && a.cluster_id == b.cluster_id
        && a.regions == b.regions
        && a.reconciled_in == b.reconciled_in
}
