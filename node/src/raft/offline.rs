//! A group's replica in the data directory of a node that doesn't run: for recoveries by force,
//! restores and exports.
//!
//! ```text
//! log      ... 810 │ 811  812                                  (812: the last entry)
//! applied  ... 810 ┘    apply_log: 812     become_sole_voter: 812 + INDEX_GAP, in the next term
//! ```
//!
//! The members of a group that is recovered here may have had entries that this replica lacks, and
//! may have shown them: indexes of entries are in resume tokens, and in the state of other members.
//! So the group goes on behind a gap, in a term that this node hasn't seen: no index is used for
//! another entry, and members that follow again need a snapshot, since the log begins anew.
//!
//! Invariants:
//! - the state is flushed at the new position before the log is purged up to it. A crash in between
//!   leaves a log that ends before the state, which a start purges (`openraft::StorageHelper`), and
//!   which another recovery takes for superseded;
//! - everything that was applied here and isn't known to be committed makes the state one that
//!   other members may contradict: until [`OfflineGroup::become_sole_voter`] the node must not start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, EntryPayload, RaftLogReader};

use super::codec;
use super::log_store::LogStore;
use super::replica::{MAX_BATCH_BYTES, Replica};
use super::types::{Command, Entry, LogId, Membership, Payload, StateMachine, Vote};
use crate::store::keys::{GroupId, Rows};
use crate::store::{Engine, RowBatch, StoreError, blocking};
use crate::types::NodeId;

/// Number of indexes that are left out before the first entry of a recovered group: more than any
/// other member can have had beyond this node's last entry.
const INDEX_GAP: u64 = 1 << 20;

/// A group's replica in the data directory of a node that doesn't run.
pub(crate) struct OfflineGroup<M: StateMachine> {
    engine: Arc<Engine>,
    log: LogStore<M>,
    replica: Replica<M>,
}

impl<M: StateMachine> OfflineGroup<M> {
    /// Opens the replica of group `id`; `open` reads its state from the rows that it is given. The
    /// state may lack entries of the log: see [`Self::apply_log`]. Blocks.
    pub(crate) fn open(
        engine: &Arc<Engine>,
        id: GroupId,
        open: impl FnOnce(Rows) -> Result<M::State, StoreError>,
    ) -> io::Result<Self> {
        // Each entry is read once.
        let log = LogStore::<M>::open(engine.clone(), id, 0)?;
        let replica = Replica::open(engine.state.clone(), log.clone(), id, open)?;
        Ok(Self {
            engine: engine.clone(),
            log,
            replica,
        })
    }

    /// Returns whether nothing was ever applied and the log is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.replica.applied.is_none() && self.log.first_retained(1, u64::MAX).is_none()
    }

    /// Applies all entries of the log that the state lacks, also those that aren't known to be
    /// committed. An error leaves a state that must not be used further.
    pub(crate) async fn apply_log(&mut self) -> io::Result<()> {
        loop {
            let applied = self.replica.applied;
            let next = applied.map_or(0, |id| id.index + 1);
            let entries = self.log.limited_get_log_entries(next, u64::MAX).await?;
            let Some(first) = entries.first() else {
                return Ok(());
            };
            if Some(first.log_id) <= applied {
                // Of an earlier term: the state was replaced by a later leader's.
                return Ok(());
            }
            if first.log_id.index != next {
                return Err(io::Error::other(format!(
                    "apply log: entries {next} to {} are missing",
                    first.log_id.index - 1
                )));
            }
            self.apply_entries(entries)?;
        }
    }

    fn apply_entries(&mut self, entries: Vec<Entry<M>>) -> io::Result<()> {
        let mut batch = RowBatch::default();
        for entry in entries {
            let alone = Replica::<M>::is_scan(&entry);
            if alone {
                self.write(std::mem::take(&mut batch))?;
            }
            self.replica.apply_to_batch(entry, &mut batch)?;
            if alone || batch.bytes() > MAX_BATCH_BYTES {
                self.write(std::mem::take(&mut batch))?;
            }
        }
        self.write(batch)
    }

    /// Applies a command behind everything that was applied. It isn't in the log: it is durable
    /// after [`Self::become_sole_voter`] only. An error leaves a state that must not be used
    /// further.
    pub(crate) async fn apply(&mut self, command: M::Command) -> io::Result<M::CommandResult> {
        // Callers apply in long loops, and the storage rarely waits.
        tokio::task::yield_now().await;
        let applied = self.replica.applied;
        let (term, index) = applied.map_or((0, 1), |id| (id.leader_id.term, id.index + 1));
        let payload = EntryPayload::Normal(Command::new(command));
        self.apply_payload(codec::log_id(term, index), payload)
    }

    /// Makes `node`, at `address`, the group's only member: flushes the state, and begins the log
    /// anew behind a gap in the indexes. Entries that weren't applied are dropped. Durable when it
    /// returns; if it was interrupted, or is repeated, it can be done again.
    pub(crate) async fn become_sole_voter(
        &mut self,
        node: NodeId,
        address: &str,
    ) -> io::Result<()> {
        let position = self.move_state(node, address).await?;
        self.restart_log(position).await
    }

    /// Moves the state to a position behind all that this node has seen, with `node` as the only
    /// member. Durable when it returns. The vote of that term comes first: openraft refuses to start
    /// with a state of a later term than the vote's.
    async fn move_state(&mut self, node: NodeId, address: &str) -> io::Result<LogId> {
        let position = self.next_position().await?;
        let vote = Vote {
            leader_id: RaftLeaderId::new(position.leader_id.term, node),
            committed: false,
        };
        self.log.save_vote(&vote).await?;
        let voters = vec![BTreeSet::from([node])];
        let nodes = BTreeMap::from([(node, BasicNode::new(address))]);
        let membership = Membership::new(voters, nodes).map_err(io::Error::other)?;
        self.apply_payload(position, EntryPayload::Membership(membership))?;
        blocking(|| self.engine.state.flush())?;
        Ok(position)
    }

    /// Returns a position behind all that this node has seen, in a term that it has not.
    async fn next_position(&mut self) -> io::Result<LogId> {
        let last = self.log.get_log_state().await?.last_log_id;
        let vote = self.log.read_vote().await?;
        let seen = [self.replica.applied, last];
        let seen: Vec<LogId> = seen.into_iter().flatten().collect();
        let terms = seen.iter().map(|id| id.leader_id.term);
        let terms = terms.chain(vote.map(|vote| vote.leader_id.term));
        let (term, index) = (terms.max(), seen.iter().map(|id| id.index).max());
        let (term, index) = (term.unwrap_or(0), index.unwrap_or(0));
        Ok(codec::log_id(term + 1, index + INDEX_GAP))
    }

    /// Empties the log, which goes on behind `position`. Durable when it returns.
    async fn restart_log(&mut self, position: LogId) -> io::Result<()> {
        self.log.truncate_after(None).await?;
        self.log.purge(position).await?;
        self.log.persist_commit(position).await
    }

    fn apply_payload(
        &mut self,
        log_id: LogId,
        payload: Payload<M>,
    ) -> io::Result<M::CommandResult> {
        let mut batch = RowBatch::default();
        let entry = Entry::<M> { log_id, payload };
        let result = self.replica.apply_to_batch(entry, &mut batch)?;
        self.write(batch)?;
        Ok(result)
    }

    /// Writes the effects of all that was applied since the last call, if there is something.
    /// Visible when it returns, not durable. The log doesn't learn that the entries are committed.
    fn write(&mut self, batch: RowBatch) -> io::Result<()> {
        match self.replica.applied {
            Some(position) if self.replica.repair.last_written != Some(position) => {
                self.replica.write(batch, position)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
impl<M: StateMachine> OfflineGroup<M> {
    /// Appends commands to the log, which isn't told that they are committed, behind its last entry
    /// and the applied position.
    pub(crate) async fn append_to_log(&mut self, commands: Vec<M::Command>) {
        let last = self.log.get_log_state().await.unwrap().last_log_id;
        let next = last
            .max(self.replica.applied)
            .map_or(0, |last| last.index + 1);
        let entries: Vec<Entry<M>> = (next..)
            .zip(commands)
            .map(|(index, command)| Entry::<M> {
                log_id: codec::log_id(1, index),
                payload: EntryPayload::Normal(Command::new(command)),
            })
            .collect();
        let callback = openraft::storage::IOFlushed::noop();
        self.log.append(entries, callback).await.unwrap();
    }
}

#[cfg(test)]
#[path = "offline_tests.rs"]
mod tests;
