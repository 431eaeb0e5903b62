//! Ends the groups of a node: hands over their leadership, stops them, or waits until one fails.

use std::io;
use std::time::Duration;

use futures_util::future::{Either, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::components::Components;
use crate::raft::{Group, StateMachine};
use crate::types::NodeId;

/// Time to transfer the leadership of all groups before a stop.
const LEADERSHIP_TRANSFER_TIMEOUT: Duration = Duration::from_millis(2500);
/// Maximum number of transfer attempts per group.
const MAX_TRANSFER_ATTEMPTS: usize = 5;

impl Components {
    /// Transfers the leadership of all groups before a stop, as far as other nodes can take it.
    pub(super) async fn transfer_leaderships(&self) {
        let groups = &self.groups;
        let others = groups.peers.node_numbers();
        let transfers = async {
            let shards = groups.shards.iter();
            let shards = shards.map(|shard| transfer_leadership(shard.group(), &others));
            futures_util::join!(join_all(shards), transfer_leadership(&groups.meta, &others));
        };
        if tokio::time::timeout(LEADERSHIP_TRANSFER_TIMEOUT, transfers)
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?LEADERSHIP_TRANSFER_TIMEOUT,
                "leadership transfer of some groups timed out"
            );
        }
    }

    /// Waits until a group has failed, and returns the reason.
    pub(super) async fn wait_for_failure(&self) -> String {
        let mut ends = FuturesUnordered::new();
        ends.push(Either::Left(self.groups.meta.wait_stopped()));
        for shard in &self.groups.shards {
            ends.push(Either::Right(shard.group().wait_stopped()));
        }
        while let Some(outcome) = ends.next().await {
            if let Err(reason) = outcome {
                return reason;
            }
        }
        std::future::pending().await
    }

    /// Stops all groups and flushes the state, so that the next start has nothing to replay.
    pub(super) async fn stop(&self) -> io::Result<()> {
        for shard in &self.groups.shards {
            shard.group().stop().await?;
        }
        self.groups.meta.stop().await?;
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.state.flush())
            .await
            .map_err(io::Error::other)??;
        Ok(())
    }
}

/// Transfers a group's leadership. On a busy machine the election can fail: then it tries again.
async fn transfer_leadership<M: StateMachine>(group: &Group<M>, others: &[NodeId]) {
    for _ in 0..MAX_TRANSFER_ATTEMPTS {
        if group
            .transfer_leadership(others, "the node that led is stopping")
            .await
        {
            return;
        }
    }
}
