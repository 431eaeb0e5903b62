//! Compares this node's replicas of shards with those of the other nodes.
//!
//! A replica that all other voters contradict in one voice, and that they don't need for a majority, serves
//! no more, nor after a restart: its node stops, and its data directory is marked.
//!
//! Invariant: no node stops on the word of one that stops. Before it does, a node tells nobody any more what
//! it holds, and asks once again: two that were about to stop at the same time then have too few
//! witnesses, and both stay, with an alarm, until the next look.

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

/// How often all replicas are compared, at most: each node adds something of its own.
const LOOK: Duration = Duration::from_secs(10);
/// Before a node that is about to stop asks once again: longer than another's answer is on its way.
const ONCE_AGAIN: Duration = Duration::from_secs(6);
/// Time for another node to tell of its replica.
const TELLS_WITHIN: Duration = Duration::from_secs(5);
/// The file that marks a data directory whose replica differed.
const MARK: &str = "replica-differs";

/// Compares the replicas of a node.
pub struct Comparer {
    /// All shards, by number.
    pub shards: Vec<Arc<ShardHandle>>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Times that replicas differed.
    pub alarms: Arc<AtomicU64>,
}

impl Comparer {
    /// Compares until `stop`, or until a replica is found that must not be used: tells which.
    pub async fn run(self, stop: CancellationToken) -> Option<String> {
        let run = async {
            let mut told = HashMap::new();
            let look = LOOK + Duration::from_millis(self.peers.me() % 5000);
            loop {
                tokio::time::sleep(look).await;
                if let Some(why) = self.look(&mut told).await {
                    return why;
                }
            }
        };
        stop.run_until_cancelled(run).await
    }

    async fn look(&self, told: &mut HashMap<u16, u64>) -> Option<String> {
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
                    if told.insert(number, index) != Some(index) {
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

    /// Whether this node is no witness against others.
    fn doubt(&self, doubted: bool) {
        for shard in &self.shards {
            shard.view().checkpoints().doubt(doubted);
        }
    }

    async fn compare(&self, number: u16, shard: &ShardHandle) -> Verdict {
        let (status, me) = (shard.status(), self.peers.me());
        let own = shard.view().checkpoints().last();
        let ask = async |nodes: &[NodeId]| {
            let others = nodes.iter().filter(|node| **node != me);
            let told = join_all(others.map(|node| self.ask(*node, number))).await;
            told.into_iter().flatten().collect()
        };
        let (voters, learners) = futures_util::join!(ask(&status.voters), ask(&status.learners));
        let told = Told {
            voters,
            learners,
            majority: (!status.changing).then_some(status.voters.len() / 2 + 1),
        };
        compare(&own, &told)
    }

    /// What another node has noted; `None` if it doesn't say.
    async fn ask(&self, node: NodeId, shard: u16) -> Option<Vec<pb::Checkpoint>> {
        let shard = u32::from(shard);
        let body = call::Body::Checkpoints(pb::CheckpointsQuery { shard });
        let told = self.peers.call(node, Lane::Keys, body, TELLS_WITHIN).await;
        match told.ok()? {
            reply::Body::Checkpoints(told) => Some(told.points),
            _ => None,
        }
    }

    fn give_up(&self, shard: u16, index: u64) -> String {
        let why = format!(
            "this node's replica of shard-{shard} differs from those of other nodes, which agree, after \
             entry {index}: its disk or its memory may be faulty. Replace the node by one with an empty \
             data directory"
        );
        match replace_file(&self.data_dir, MARK, why.as_bytes()) {
            Ok(()) => why,
            // It would start again, and be found out again.
            Err(error) => format!("{why} (its data directory could not be marked: {error})"),
        }
    }
}

/// Why a data directory must not be used, if it is marked.
pub fn marked(data_dir: &std::path::Path) -> io::Result<Option<String>> {
    match fs::read_to_string(data_dir.join(MARK)) {
        Ok(why) => Ok(Some(why)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
