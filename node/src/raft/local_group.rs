//! Groups of a node whatever their state machines, for what treats all of them alike.

use std::io;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Group, SnapshotTransfers, StateMachine};
use crate::store::keys::GroupId;

/// A group on this node, of any machine, as this node maintains and reports it.
pub(crate) trait LocalGroup: Send + Sync + 'static {
    /// Id of the group.
    fn id(&self) -> GroupId;
    /// Snapshot transfers from and to this node.
    fn transfers(&self) -> &SnapshotTransfers;
    /// Number of entries retained for members that lag, at the last purge.
    fn retained_entries(&self) -> u64;
    /// Stops retaining the log for the members that lag now: they will need a snapshot.
    fn release_retained_log(&self);
    /// Purges the log up to what the state has flushed: see [`Group::purge`].
    fn purge(&self) -> BoxFuture<'_, io::Result<()>>;
}

impl<M: StateMachine> LocalGroup for Group<M> {
    fn id(&self) -> GroupId {
        Group::id(self)
    }

    fn transfers(&self) -> &SnapshotTransfers {
        Group::transfers(self)
    }

    fn retained_entries(&self) -> u64 {
        self.retention().retained_entries()
    }

    fn release_retained_log(&self) {
        Group::release_retained_log(self);
    }

    fn purge(&self) -> BoxFuture<'_, io::Result<()>> {
        Group::purge(self).boxed()
    }
}
