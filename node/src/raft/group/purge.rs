//! Purges a group's log.

use std::io;

use openraft::async_runtime::WatchReceiver;

use super::Group;
use crate::raft::applied_position::persisted_index;
use crate::raft::log_retention::MissingEntries;
use crate::raft::types::StateMachine;
use crate::types::NodeId;

impl<M: StateMachine> Group<M> {
    /// Purges the log up to what the state has flushed, except the newest entries, and those that a
    /// lagging member needs: see `log_retention`.
    pub async fn purge(&self) -> io::Result<()> {
        self.snapshot_receiver.discard_expired().await;
        let Some(flushed) = persisted_index(&self.engine.state, self.id)? else {
            return Ok(());
        };
        let (entries, bytes) = self.log_retention_limits;
        let Some(kept) = self.log.first_retained(entries, bytes) else {
            return Ok(());
        };
        let usual = kept.saturating_sub(1);
        let purged = self.log.purged_index();
        let lacking = self.missing_entries(purged);
        let needed = self.retention.needed_index(purged, lacking);
        let upto = flushed.min(self.retention.purge_limit(usual, needed));
        if upto <= purged {
            return Ok(());
        }
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(io::Error::other)?;
        trigger.purge_log(upto).await.map_err(io::Error::other)
    }

    /// Entries that other members lack of those still in this leader's log, or will lack once they
    /// have the snapshots that are being sent to them.
    fn missing_entries(&self, purged: u64) -> MissingEntries {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(others) = metrics.replication.as_ref() else {
            return MissingEntries::default();
        };
        let matched = |node: NodeId| others.get(&node)?.map(|at| at.index);
        let others = others.keys().filter(|node| **node != self.node);
        let lagging = others.clone().filter_map(|node| matched(*node));
        let retained = self.transfers.retained_index(matched);
        MissingEntries {
            lowest_known: lagging.filter(|at| *at >= purged).chain(retained).min(),
            is_complete: others.clone().all(|node| matched(*node).is_some()),
        }
    }
}
