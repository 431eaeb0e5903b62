//! Compares this node's replicas, of the metadata and of shards, with those of other nodes.
//!
//! A replica that all other voters contradict unanimously, and that they don't need for a majority,
//! stops serving for good: its node stops, and its data directory is marked.
//!
//! Invariant: no node stops because of the answer of another node that is about to stop. Before it
//! stops, a node refuses to answer queries about its replicas and asks once more: two nodes that
//! were about to stop at the same time then have too few witnesses, and both stay, with an alarm,
//! until the next comparison.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::identity::replace_file;
use crate::meta::Meta;
use crate::raft::{
    CheckpointVerdict, Checkpoints, Group, GroupStatus, NodeId, PeerCheckpoints,
    compare_checkpoints,
};
use crate::rpc::{Peers, StreamKind};
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

/// Minimum interval between comparisons of all replicas; a share that depends on the node is added.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before a node that is about to stop asks once more: longer than the timeout of a query.
const RECHECK_DELAY: Duration = Duration::from_secs(6);
/// Time for another node to answer a query about its replica.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// File that marks a data directory which must not be used: its replica differed, or a backup was
/// restored into it in part.
const MARKER_FILE: &str = "replica-differs";

/// Checks this node's replicas for consistency with those of other nodes.
pub(crate) struct ConsistencyChecker {
    /// The metadata group.
    pub meta: Arc<Group<Meta>>,
    /// All shards, by number.
    pub shards: Vec<Arc<ShardHandle>>,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Data directory of the node.
    pub data_dir: PathBuf,
    /// Number of times that replicas differed.
    pub mismatches: Arc<AtomicU64>,
}

impl ConsistencyChecker {
    /// Compares replicas until `stop`, or until one is found that must not be used. Returns the
    /// reason for the latter.
    pub(crate) async fn run(self, stop: CancellationToken) -> Option<String> {
        let run = async {
            let mut reported = HashMap::new();
            let me = u64::from(self.peers.me());
            let interval = CHECK_INTERVAL + Duration::from_millis(me % 5000);
            loop {
                tokio::time::sleep(interval).await;
                if let Some(reason) = self.check_replicas(&mut reported).await {
                    return reason;
                }
            }
        };
        stop.run_until_cancelled(run).await
    }

    async fn check_replicas(&self, reported: &mut HashMap<GroupId, u64>) -> Option<String> {
        for replica in self.replicas() {
            if let Some(reason) = self.check_replica(&replica, reported).await {
                return Some(reason);
            }
        }
        None
    }

    /// This node's replicas: of the metadata, and of the shards that it hosts.
    fn replicas(&self) -> Vec<LocalReplica> {
        let meta = LocalReplica::Meta(self.meta.clone());
        let hosted = self.shards.iter().filter(|shard| shard.is_hosted());
        let shards = hosted.map(|shard| LocalReplica::Shard(shard.clone()));
        std::iter::once(meta).chain(shards).collect()
    }

    /// Compares a replica. Returns the reason if it must not be used.
    async fn check_replica(
        &self,
        replica: &LocalReplica,
        reported: &mut HashMap<GroupId, u64>,
    ) -> Option<String> {
        let mut verdict = self.compare(replica).await;
        if let CheckpointVerdict::Outlier(_) = verdict {
            self.set_suspect(true);
            tokio::time::sleep(RECHECK_DELAY).await;
            verdict = self.compare(replica).await;
        }
        let group = replica.group();
        match verdict {
            CheckpointVerdict::Match => {}
            CheckpointVerdict::Mismatch(index) => {
                if reported.insert(group, index) != Some(index) {
                    self.mismatches.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%group, index, "replicas of a group differ");
                }
            }
            CheckpointVerdict::Outlier(index) => return Some(self.mark_data_dir(group, index)),
        }
        self.set_suspect(false);
        None
    }

    /// Sets whether this node refuses to testify about its replicas.
    fn set_suspect(&self, is_suspect: bool) {
        self.meta.checkpoints().set_suspect(is_suspect);
        for shard in &self.shards {
            shard.group().checkpoints().set_suspect(is_suspect);
        }
    }

    async fn compare(&self, replica: &LocalReplica) -> CheckpointVerdict {
        let (status, me) = (replica.status(), self.peers.me());
        let own = replica.checkpoints().newest();
        let query = async |nodes: &[NodeId]| {
            let others = nodes.iter().filter(|node| **node != me);
            let answers = join_all(others.map(|node| self.query_checkpoints(*node, replica))).await;
            answers.into_iter().flatten().collect()
        };
        let (voters, learners) =
            futures_util::join!(query(&status.voters), query(&status.learners));
        let answers = PeerCheckpoints {
            voters,
            learners,
            majority: (!status.is_changing).then_some(status.voters.len() / 2 + 1),
        };
        compare_checkpoints(&own, &answers)
    }

    /// Queries the checkpoints of another node; `None` if it doesn't answer, or is of a version
    /// that doesn't compare the group.
    async fn query_checkpoints(
        &self,
        node: NodeId,
        replica: &LocalReplica,
    ) -> Option<Vec<pb::Checkpoint>> {
        let answer = self
            .peers
            .call(node, StreamKind::Forwarded, replica.query(), QUERY_TIMEOUT)
            .await;
        match answer.ok()? {
            reply::Body::Checkpoints(answer) => Some(answer.points),
            _ => None,
        }
    }

    fn mark_data_dir(&self, group: GroupId, index: u64) -> String {
        let reason = format!(
            "this node's replica of {group} differs from those of other nodes, which agree, \
             after entry {index}: its disk or its memory may be faulty. Replace the node by one \
             with an empty data directory"
        );
        match write_marker(&self.data_dir, &reason) {
            Ok(()) => reason,
            // The node would start again, and fail the comparison again.
            Err(error) => format!("{reason} (its data directory could not be marked: {error})"),
        }
    }
}

/// A replica on this node.
enum LocalReplica {
    Meta(Arc<Group<Meta>>),
    Shard(Arc<ShardHandle>),
}

impl LocalReplica {
    fn group(&self) -> GroupId {
        match self {
            Self::Meta(group) => group.id(),
            Self::Shard(shard) => shard.group().id(),
        }
    }

    fn status(&self) -> GroupStatus {
        match self {
            Self::Meta(group) => group.status(),
            Self::Shard(shard) => shard.status(),
        }
    }

    fn checkpoints(&self) -> &Checkpoints {
        match self {
            Self::Meta(group) => group.checkpoints(),
            Self::Shard(shard) => shard.group().checkpoints(),
        }
    }

    /// Query of another node's replica of the group.
    fn query(&self) -> call::Body {
        match self.group().shard_number() {
            None => call::Body::MetadataCheckpoints(pb::MetadataCheckpointsQuery {}),
            Some(shard) => call::Body::Checkpoints(pb::CheckpointsQuery {
                shard: u32::from(shard),
            }),
        }
    }
}

/// Marks a data directory, durably: no node starts from it. `reason` says why, and what to do.
/// Blocks.
pub(crate) fn write_marker(data_dir: &Path, reason: &str) -> io::Result<()> {
    replace_file(data_dir, MARKER_FILE, reason.as_bytes())
}

/// Removes the mark of a data directory, durably. Blocks.
pub(crate) fn remove_marker(data_dir: &Path) -> io::Result<()> {
    fs::remove_file(data_dir.join(MARKER_FILE))?;
    fs::File::open(data_dir)?.sync_all()
}

/// Reads the reason why a data directory must not be used, if it is marked.
pub(crate) fn read_marker(data_dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(data_dir.join(MARKER_FILE)) {
        Ok(reason) => Ok(Some(reason)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
