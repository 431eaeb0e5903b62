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
use crate::rpc::{Lane, Peers};
use crate::shard::{ShardHandle, Told, Verdict, compare};

/// Minimum interval between comparisons of all replicas; a share that depends on the node is added.
const LOOK: Duration = Duration::from_secs(10);
/// Delay before a node that is about to stop asks once more: longer than the timeout of a query.
const ONCE_AGAIN: Duration = Duration::from_secs(6);
/// Time for another node to answer a query about its replica.
const TELLS_WITHIN: Duration = Duration::from_secs(5);
/// File that marks a data directory whose replica differed.
const MARK: &str = "replica-differs";

/// Checks this node's replicas for consistency with those of other nodes.
pub struct Comparer {
    /// All shards, by number.
    pub shards: Vec<Arc<ShardHandle>>,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Data directory of the node.
    pub data_dir: PathBuf,
    /// Number of times that replicas differed.
    pub alarms: Arc<AtomicU64>,
}

impl Comparer {
    /// Compares replicas until `stop`, or until one is found that must not be used. Returns the
    /// reason for the latter.
    pub async fn run(self, stop: CancellationToken) -> Option<String> {
        let run = async {
            let mut reported = HashMap::new();
            let interval = LOOK + Duration::from_millis(self.peers.me() % 5000);
            loop {
                tokio::time::sleep(interval).await;
                if let Some(reason) = self.look(&mut reported).await {
                    return reason;
                }
            }
        };
        stop.run_until_cancelled(run).await
    }

    async fn look(&self, reported: &mut HashMap<u16, u64>) -> Option<String> {
        for (number, shard) in (0..).zip(&self.shards) {
            if !shard.is_hosted() {
                continue;
            }
            let mut verdict = self.compare(number, shard).await;
            if let Verdict::Odd(_) = verdict {
                self.doubt(true);
                tokio::time::sleep(ONCE_AGAIN).await;
                verdict = self.compare(number, shard).await;
            }
            match verdict {
                Verdict::Same => {}
                Verdict::Differs(index) => {
                    if reported.insert(number, index) != Some(index) {
                        self.alarms.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(shard = number, index, "replicas of a shard differ");
                    }
                }
                Verdict::Odd(index) => return Some(self.give_up(number, index)),
            }
            self.doubt(false);
        }
        None
    }

    /// Sets whether this node refuses to testify about its replicas.
    fn doubt(&self, is_suspect: bool) {
        for shard in &self.shards {
            shard.view().checkpoints().doubt(is_suspect);
        }
    }

    async fn compare(&self, number: u16, shard: &ShardHandle) -> Verdict {
        let (status, me) = (shard.status(), self.peers.me());
        let own = shard.view().checkpoints().last();
        let query = async |nodes: &[NodeId]| {
            let others = nodes.iter().filter(|node| **node != me);
            let answers = join_all(others.map(|node| self.ask(*node, number))).await;
            answers.into_iter().flatten().collect()
        };
        let (voters, learners) = futures_util::join!(query(&status.voters), query(&status.learners));
        let answers = Told {
            voters,
            learners,
            majority: (!status.changing).then_some(status.voters.len() / 2 + 1),
        };
        compare(&own, &answers)
    }

    /// Queries the checkpoints of another node; `None` if it doesn't answer.
    async fn ask(&self, node: NodeId, shard: u16) -> Option<Vec<pb::Checkpoint>> {
        let shard = u32::from(shard);
        let body = call::Body::Checkpoints(pb::CheckpointsQuery { shard });
        let answer = self.peers.call(node, Lane::Keys, body, TELLS_WITHIN).await;
        match answer.ok()? {
            reply::Body::Checkpoints(answer) => Some(answer.points),
            _ => None,
        }
    }

    fn give_up(&self, shard: u16, index: u64) -> String {
        let reason = format!(
            "this node's replica of shard-{shard} differs from those of other nodes, which agree, \
             after entry {index}: its disk or its memory may be faulty. Replace the node by one \
             with an empty data directory"
        );
        match replace_file(&self.data_dir, MARK, reason.as_bytes()) {
            Ok(()) => reason,
            // The node would start again, and fail the comparison again.
            Err(error) => format!("{reason} (its data directory could not be marked: {error})"),
        }
    }
}

/// Reads the reason why a data directory must not be used, if it is marked.
pub fn marked(data_dir: &std::path::Path) -> io::Result<Option<String>> {
    match fs::read_to_string(data_dir.join(MARK)) {
        Ok(reason) => Ok(Some(reason)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
