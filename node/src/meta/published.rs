//! The cluster's own row and its topology, as last written, and a signal whenever they change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use cloudkv_proto::v1 as pb;
use tokio::sync::watch;

use super::topology::Topology;

/// What readers see of the cluster itself.
#[derive(Debug)]
pub(super) struct Published {
    header: ArcSwap<pb::MetaHeader>,
    topology: ArcSwap<Topology>,
    changes: watch::Sender<u64>,
    several_regions: AtomicBool,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            header: ArcSwap::default(),
            topology: ArcSwap::default(),
            changes: watch::Sender::new(0),
            several_regions: AtomicBool::new(false),
        }
    }
}

impl Published {
    pub(super) fn header(&self) -> Arc<pb::MetaHeader> {
        self.header.load_full()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }

    /// Whether there are several regions: asked with every request.
    pub(super) fn has_regions(&self) -> bool {
        self.several_regions.load(Ordering::Relaxed)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Publishes a header, and a topology if that changed. Whoever is told sees both.
    pub(super) fn publish(&self, header: pb::MetaHeader, topology: Option<Topology>) {
        let changed = !same_cluster(&self.header.load(), &header);
        if !changed && topology.is_none() {
            self.header.store(Arc::new(header));
            return;
        }
        let mut topology = topology.unwrap_or_else(|| Topology::clone(&self.topology.load()));
        topology.set_regions(&header);
        let several = header.regions.len() > 1;
        self.several_regions.store(several, Ordering::Relaxed);
        // The topology first: who finds the cluster founded finds its nodes too.
        self.topology.store(Arc::new(topology));
        self.header.store(Arc::new(header));
        self.changes.send_modify(|change| *change += 1);
    }
}

/// Whether two headers differ at most in the digest, which every command changes.
fn same_cluster(a: &pb::MetaHeader, b: &pb::MetaHeader) -> bool {
    let parts = |header: &pb::MetaHeader| (header.shards, header.level, header.removal_round);
    parts(a) == parts(b)
        && a.cluster_id == b.cluster_id
        && a.regions == b.regions
        && a.levelled_in == b.levelled_in
}
