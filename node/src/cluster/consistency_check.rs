//! Compares this node's replicas of shards with those of other nodes.
//!
//! A replica that all other voters contradict unanimously, and that they don't need for a majority,
//! stops serving for good: its node stops, and its data directory is marked.
//!
//! Invariant: no node stops because of the answer of another node that is about to stop. Before it
//! stops, a node refuses to answer queries about its replicas and asks once more: two nodes that
//! were about to stop at the same time then have too few witnesses, and both stay, with an alarm,
//! until the next comparison.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::identity::replace_file;
use crate::raft::NodeId;
use crate::rpc::{Peers, StreamKind};
use crate::shard::{CheckpointVerdict, PeerCheckpoints, ShardHandle, compare_checkpoints};

/// Minimum interval between comparisons of all replicas; a share that depends on the node is added.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before a node that is about to stop asks once more: longer than the timeout of a query.
const RECHECK_DELAY: Duration = Duration::from_secs(6);
/// Time for another node to answer a query about its replica.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// File that marks a data directory whose replica differed.
const MARKER_FILE: &str = "replica-differs";

/// Checks this node's replicas for consistency with those of other nodes.
pub(crate) struct ConsistencyChecker {
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
                if let Some(reason) = self.check_shards(&mut reported).await {
                    return reason;
                }
            }
        };
        stop.run_until_cancelled(run).await
    }

    async fn check_shards(&self, reported: &mut HashMap<u16, u64>) -> Option<String> {
        for (number, shard) in (0..).zip(&self.shards) {
            if !shard.is_hosted() {
                continue;
            }
            let mut verdict = self.compare_shard(number, shard).await;
            if let CheckpointVerdict::Outlier(_) = verdict {
                self.set_suspect(true);
                tokio::time::sleep(RECHECK_DELAY).await;
                verdict = self.compare_shard(number, shard).await;
            }
            match verdict {
                CheckpointVerdict::Match => {}
                CheckpointVerdict::Mismatch(index) => {
                    if reported.insert(number, index) != Some(index) {
                        self.mismatches.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(shard = number, index, "replicas of a shard differ");
                    }
                }
                CheckpointVerdict::Outlier(index) => {
                    return Some(self.mark_data_dir(number, index));
                }
            }
            self.set_suspect(false);
        }
        None
    }

    /// Sets whether this node refuses to testify about its replicas.
    fn set_suspect(&self, is_suspect: bool) {
        for shard in &self.shards {
            shard.view().checkpoints().set_suspect(is_suspect);
        }
    }

    async fn compare_shard(&self, number: u16, shard: &ShardHandle) -> CheckpointVerdict {
        let (status, me) = (shard.status(), self.peers.me());
        let own = shard.view().checkpoints().newest();
        let query = async |nodes: &[NodeId]| {
            let others = nodes.iter().filter(|node| **node != me);
            let answers = join_all(others.map(|node| self.query_checkpoints(*node, number))).await;
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

    /// Queries the checkpoints of another node; `None` if it doesn't answer.
    async fn query_checkpoints(&self, node: NodeId, shard: u16) -> Option<Vec<pb::Checkpoint>> {
        let shard = u32::from(shard);
        let body = call::Body::Checkpoints(pb::CheckpointsQuery { shard });
        let answer = self
            .peers
            .call(node, StreamKind::Forwarded, body, QUERY_TIMEOUT)
            .await;
        match answer.ok()? {
            reply::Body::Checkpoints(answer) => Some(answer.points),
            _ => None,
        }
    }

    fn mark_data_dir(&self, shard: u16, index: u64) -> String {
        let reason = format!(
            "this node's replica of shard-{shard} differs from those of other nodes, which agree, \
             after entry {index}: its disk or its memory may be faulty. Replace the node by one \
             with an empty data directory"
        );
        match replace_file(&self.data_dir, MARKER_FILE, reason.as_bytes()) {
            Ok(()) => reason,
            // The node would start again, and fail the comparison again.
            Err(error) => format!("{reason} (its data directory could not be marked: {error})"),
        }
    }
}

/// Reads the reason why a data directory must not be used, if it is marked.
pub(crate) fn read_marker(data_dir: &std::path::Path) -> io::Result<Option<String>> {
    match fs::read_to_string(data_dir.join(MARKER_FILE)) {
        Ok(reason) => Ok(Some(reason)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
