//! Replaces a damaged state by a snapshot that was received: see `repair`.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::FutureExt;
use openraft::{Raft, RaftLogReader};
use tokio::time::Instant;
use tonic::Status;

use super::applied_position::read_position;
use super::replica::Replica;
use super::snapshot::{self, SnapshotData};
use super::types::{Entry, LogId, StateMachine, TypeConfig};
use crate::store::keys::{GroupId, Rows};
use crate::store::{RowBatch, Scan, StateDb, StoreError};

/// Maximum wait for the leader to apply what the damaged replica had, and for that replica to
/// receive the entries that the snapshot holds.
pub(super) const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which these entries are polled for.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// Error of replacing a replica's state.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplaceError {
    /// The log lacks entries up to the snapshot's position yet.
    #[error("the entries that the snapshot holds have not been received yet")]
    Ahead,
    /// The replica has more than the snapshot, or isn't damaged.
    #[error("the snapshot can't be used: {0}")]
    Unusable(&'static str),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] io::Error),
}

impl From<StoreError> for ReplaceError {
    fn from(error: StoreError) -> Self {
        Self::Storage(error.into())
    }
}

impl<M: StateMachine> Replica<M> {
    /// Replaces the damaged state by a snapshot that was received into `rows`, and applies the
    /// entries that were skipped since.
    async fn replace_state(&mut self, rows: Rows) -> Result<(), ReplaceError> {
        if !self.progress.is_stalled() {
            return Err(ReplaceError::Unusable("the state is not damaged any more"));
        }
        let (position, membership) = read_position(&self.db, rows)?;
        let passed = self.repair.skipped_to.max(self.applied);
        if position < self.applied {
            return Err(ReplaceError::Unusable("the damaged state is newer"));
        }
        if position > passed {
            return Err(ReplaceError::Ahead);
        }
        let (db, old) = (self.db.clone(), self.rows);
        let data = SnapshotData::received(db.clone(), rows);
        verify_readable(&db, rows).await?;
        let generations = self.generations.clone();
        tokio::task::spawn_blocking(move || {
            snapshot::install_generation(&db, old, &data, &generations)
        })
        .await
        .map_err(io::Error::other)??;
        self.reload(rows)?;
        self.rows = rows;
        self.applied = position;
        self.repair.last_written = position;
        self.membership = membership;
        self.publish();
        self.replay(passed).await?;
        self.finish_repair();
        self.publish();
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || snapshot::remove_generation(&db, old))
            .await
            .map_err(io::Error::other)??;
        Ok(())
    }

    /// Applies the entries of the log up to `last`. No proposer waits for their responses.
    async fn replay(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut log = self.log.clone();
        let end = last.map_or(0, |at| at.index + 1);
        let mut next = self.applied.map_or(0, |at| at.index + 1);
        while next < end {
            let entries = log.limited_get_log_entries(next, end).await?;
            if entries.first().map(|entry| entry.log_id.index) != Some(next) {
                return Err(io::Error::other(
                    "replay log: it lacks entries behind the state",
                ));
            }
            let replayed = self.replay_entries(entries).await;
            if replayed.is_err() {
                self.discard_unwritten();
            }
            next = replayed?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Applies entries, and returns the index after the last one.
    async fn replay_entries(&mut self, entries: Vec<Entry<M>>) -> io::Result<u64> {
        let mut batch = RowBatch::default();
        let mut next = 0;
        for entry in entries {
            next = entry.log_id.index + 1;
            let alone = Self::is_scan(&entry);
            if alone {
                self.commit(std::mem::take(&mut batch), Vec::new()).await?;
            }
            self.apply_to_batch(entry, &mut batch)?;
            if alone {
                self.commit(std::mem::take(&mut batch), Vec::new()).await?;
            }
        }
        self.commit(batch, Vec::new()).await?;
        Ok(next)
    }
}

/// Reads all rows of a generation: a copy that can't be read must not become the current one.
async fn verify_readable(db: &StateDb, rows: Rows) -> io::Result<()> {
    let db = db.clone();
    let read = tokio::task::spawn_blocking(move || {
        let (from, to) = rows.bounds();
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        db.scan(scan, |_, _| ControlFlow::Continue(()))
    });
    Ok(read.await.map_err(io::Error::other)??)
}

/// Replaces a damaged state by a snapshot that was received completely into `rows`. No other
/// snapshot may be received meanwhile.
pub(super) async fn replace_damaged_state<M: StateMachine>(
    raft: &Raft<TypeConfig<M>, Replica<M>>,
    group: GroupId,
    rows: Rows,
) -> Result<(), Status> {
    let until = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let replaced = raft.with_state_machine(move |replica| replica.replace_state(rows).boxed());
        let replaced = replaced.await;
        match replaced.map_err(|error| Status::unavailable(error.to_string()))? {
            Ok(()) => {
                tracing::info!(%group, "damaged state replaced by the leader's");
                return Ok(());
            }
            Err(ReplaceError::Ahead) if Instant::now() < until => {
                tokio::time::sleep(CATCH_UP_INTERVAL).await;
            }
            Err(error) => {
                tracing::warn!(%group, %error, "damaged state not replaced");
                return Err(Status::failed_precondition(error.to_string()));
            }
        }
    }
}
