//! Applies a group's committed entries to its state.
//!
//! Invariants:
//! - the effects of an entry and the applied position after it are in one batch, so the state is
//!   always that after some entry, and says which;
//! - where [`StateMachine::COMMITS_ARE_DURABLE`] is set, the log holds durably that an entry is
//!   committed before readers see its effects or its proposer is answered. A crash loses the part
//!   of the state that isn't flushed; the start applies again everything that the log holds as
//!   committed, without calling any other member. So what a node has shown of such a state, it
//!   shows again, even if it is alone.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{BasicNode, EntryPayload, SnapshotMeta};

use super::applied_position::read_position;
use super::apply_progress::ApplyProgress;
use super::checkpoints::Checkpoints;
use super::codec;
use super::log_store::LogStore;
use super::repair_state::{RepairContext, RepairState};
use super::snapshot::{self, GenerationAllocator, SnapshotBuilder, SnapshotData};
use super::types::{
    CommittedLeaderId, Entry, LogId, MachineState, StateMachine, StoredMembership, TypeConfig,
};
use crate::store::keys::{GroupId, RowKind, Rows};
use crate::store::{GroupDamage, RowBatch, StateDb, StoreError};
use crate::types::NodeId;

/// Size at which a batch is written, even if more entries wait: bounds its memory.
pub(super) const MAX_BATCH_BYTES: usize = 4 << 20;

/// Replica of a group on this node.
pub(super) struct Replica<M: StateMachine> {
    pub(super) db: StateDb,
    pub(super) log: LogStore<M>,
    pub(super) rows: Rows,
    pub(super) state: M::State,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) progress: Arc<ApplyProgress>,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) repair: RepairState,
    pub(super) generations: GenerationAllocator,
}

/// Response to send once an entry's effects are written, and the proposer that waits for it.
type PendingResponse<M> = (
    ApplyResponder<TypeConfig<M>>,
    <M as StateMachine>::CommandResult,
);

impl<M: StateMachine> Replica<M> {
    /// Opens the replica of `group`, whose log is `log`; `open` reads its state from the rows it is
    /// given.
    pub(super) fn open(
        db: StateDb,
        log: LogStore<M>,
        group: GroupId,
        open: impl FnOnce(Rows) -> Result<M::State, StoreError>,
    ) -> io::Result<Self> {
        let rows = snapshot::current_rows(&db, group)?;
        snapshot::remove_leftovers(&db, rows)?;
        let (applied, membership) = read_position(&db, rows)?;
        let state = open(rows)?;
        let progress = Arc::new(ApplyProgress::default());
        let mut replica = Self {
            db,
            log,
            rows,
            state,
            applied,
            membership,
            progress,
            checkpoints: Arc::default(),
            repair: RepairState::new(applied),
            generations: GenerationAllocator::after(rows),
        };
        replica.publish();
        Ok(replica)
    }

    /// Enables repairs of the replica on `node` when `damage` is found.
    pub(super) fn with_repair(mut self, node: NodeId, damage: Arc<GroupDamage>) -> Self {
        self.repair.context = Some(RepairContext { node, damage });
        self
    }

    /// Progress of applying entries.
    pub(super) fn progress(&self) -> Arc<ApplyProgress> {
        self.progress.clone()
    }

    /// Digests after certain entries.
    pub(super) fn checkpoints(&self) -> Arc<Checkpoints> {
        self.checkpoints.clone()
    }

    /// Allocator of the generations for received snapshots.
    pub(super) fn generations(&self) -> GenerationAllocator {
        self.generations.clone()
    }

    pub(super) fn publish(&mut self) {
        if let Some(applied) = &self.applied {
            self.progress.publish(applied.leader_id.term, applied.index);
        }
    }

    pub(super) fn is_scan(entry: &Entry<M>) -> bool {
        match &entry.payload {
            EntryPayload::Normal(command) => M::State::is_scan(command.get()),
            EntryPayload::Blank | EntryPayload::Membership(_) => false,
        }
    }

    fn apply_entry(
        &mut self,
        (entry, responder): EntryResponder<TypeConfig<M>>,
        batch: &mut RowBatch,
        answers: &mut Vec<PendingResponse<M>>,
    ) -> io::Result<()> {
        let response = self.apply_to_batch(entry, batch)?;
        answers.extend(responder.map(|responder| (responder, response)));
        Ok(())
    }

    /// Applies an entry: its effects go into the batch.
    pub(super) fn apply_to_batch(
        &mut self,
        entry: Entry<M>,
        batch: &mut RowBatch,
    ) -> io::Result<M::CommandResult> {
        let response = match entry.payload {
            EntryPayload::Normal(command) => self.state.apply(command.get(), batch)?,
            EntryPayload::Blank => M::State::empty_response(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                let row = codec::encode_membership(&self.membership);
                batch.put(self.rows.single(RowKind::Membership), row);
                M::State::empty_response()
            }
        };
        self.applied = Some(entry.log_id);
        let index = entry.log_id.index;
        self.state.entry_applied(index);
        if index.is_multiple_of(M::ENTRIES_PER_CHECKPOINT) {
            self.checkpoints.record(index, self.state.digest());
        }
        Ok(response)
    }

    /// Reads the state from `rows`, which replace those before.
    pub(super) fn reload(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.checkpoints.clear();
        self.state.reload(rows)
    }

    /// Writes the batch with the position, makes it visible to readers, and only then responds.
    pub(super) async fn commit(
        &mut self,
        batch: RowBatch,
        answers: Vec<PendingResponse<M>>,
    ) -> io::Result<()> {
        let Some(position) = self.applied.filter(|_| !self.is_all_written()) else {
            return Ok(());
        };
        if M::COMMITS_ARE_DURABLE {
            self.log.persist_commit(position).await?;
        }
        self.write(batch, position)?;
        for (responder, response) in answers {
            responder.send(response);
        }
        Ok(())
    }

    /// Writes the batch, which ends at `position`, and makes it visible to readers.
    pub(super) fn write(&mut self, mut batch: RowBatch, position: LogId) -> io::Result<()> {
        self.state.finish_batch(&mut batch);
        batch.put(
            self.rows.single(RowKind::Applied),
            codec::encode_log_id(&position),
        );
        self.db.write(batch)?;
        self.repair.last_written = Some(position);
        self.state.batch_written();
        self.publish();
        Ok(())
    }

    /// Handles an entry that couldn't be applied. If the state is damaged and other voters have it,
    /// nothing is applied from this entry on, until the state is replaced; any other error is
    /// returned.
    fn stall_on_damage(&mut self, at: LogId, error: io::Error) -> io::Result<()> {
        let Some(means) = &self.repair.context else {
            return Err(error);
        };
        let has_others = self.membership.voter_ids().any(|id| id != means.node);
        if !has_others || !StoreError::is_io_damage(&error) {
            return Err(error);
        }
        // Before the state can be taken for that of the leader.
        self.progress.set_stalled(true);
        means.damage.record(self.rows.generation(), &error);
        self.discard_unwritten();
        self.repair.skipped_to = Some(at);
        Ok(())
    }

    /// Resets position and membership to what was written.
    pub(super) fn discard_unwritten(&mut self) {
        self.applied = self.repair.last_written;
        if self.membership.log_id() > &self.applied {
            let stored = self.db.get(&self.rows.single(RowKind::Membership));
            let stored = stored.ok().flatten().map(codec::decode_membership);
            self.membership = stored.and_then(Result::ok).unwrap_or_default();
        }
    }

    /// Records an entry that isn't applied.
    async fn skip_entry(
        &mut self,
        at: LogId,
        batch: &mut RowBatch,
        answers: &mut Vec<PendingResponse<M>>,
    ) -> io::Result<()> {
        // Applied before the replica was stalled.
        self.commit(std::mem::take(batch), std::mem::take(answers))
            .await?;
        self.repair.skipped_to = Some(at);
        Ok(())
    }

    /// Returns whether everything that was applied is written.
    fn is_all_written(&self) -> bool {
        self.applied == self.repair.last_written
    }

    /// Ends the repair: the state is intact.
    pub(super) fn finish_repair(&mut self) {
        self.repair.skipped_to = None;
        self.repair.last_written = self.applied;
        if let Some(means) = &self.repair.context {
            means.damage.replaced_by(self.rows.generation());
        }
        self.progress.set_stalled(false);
    }

    fn snapshot_meta(&self) -> SnapshotMeta<CommittedLeaderId, NodeId, BasicNode> {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

impl<M: StateMachine> RaftStateMachine<TypeConfig<M>> for Replica<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((
            self.repair.skipped_to.or(self.applied),
            self.membership.clone(),
        ))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig<M>>, io::Error>> + Unpin + Send,
    {
        let mut batch = RowBatch::default();
        let mut answers = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if self.progress.is_stalled() {
                self.skip_entry(entry.0.log_id, &mut batch, &mut answers)
                    .await?;
                continue;
            }
            let alone = Self::is_scan(&entry.0);
            if alone {
                self.commit(std::mem::take(&mut batch), std::mem::take(&mut answers))
                    .await?;
            }
            let at = entry.0.log_id;
            if let Err(error) = self.apply_entry(entry, &mut batch, &mut answers) {
                self.stall_on_damage(at, error)?;
                (batch, answers) = Default::default();
                continue;
            }
            if alone || batch.bytes() > MAX_BATCH_BYTES {
                self.commit(std::mem::take(&mut batch), std::mem::take(&mut answers))
                    .await?;
            }
        }
        self.commit(batch, answers).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            meta: self.snapshot_meta(),
            data: SnapshotData::live(self.db.clone(), self.rows),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<CommittedLeaderId, NodeId, BasicNode>,
        data: SnapshotData,
    ) -> Result<(), io::Error> {
        let db = self.db.clone();
        let old = self.rows;
        let generations = self.generations.clone();
        let install = move || snapshot::install_generation(&db, old, &data, &generations);
        let rows = tokio::task::spawn_blocking(install)
            .await
            .map_err(io::Error::other)??;
        let (applied, membership) = read_position(&self.db, rows)?;
        if applied != meta.last_log_id {
            return Err(io::Error::other(
                "install snapshot: its rows hold another position than its header",
            ));
        }
        self.reload(rows)?;
        self.rows = rows;
        self.applied = applied;
        self.membership = membership;
        self.finish_repair();
        self.publish();
        // Readers use the new generation now.
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || snapshot::remove_generation(&db, old))
            .await
            .map_err(io::Error::other)??;
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<CommittedLeaderId, NodeId, BasicNode, SnapshotData>>, io::Error>
    {
        if self.applied.is_none() {
            return Ok(None);
        }
        let snapshot = SnapshotData::live(self.db.clone(), self.rows);
        Ok(Some(Snapshot {
            meta: self.snapshot_meta(),
            snapshot,
        }))
    }
}
