//! Writes the parts of a folder of a backup, one after the other.
//!
//! While one part is being filled, the one before it is compressed and written: no more than two
//! are in memory.

use std::sync::Arc;

use prost::Message;
use tokio_util::task::AbortOnDropHandle;

use super::error::BackupError;
use super::format::{PartEntry, part_name};
use super::part::encode_part;
use super::status::BackupStatus;
use super::target::BackupTarget;
use super::writer_lease::WriterLease;
use crate::background::BackgroundScheduler;

/// Writer of the parts of one folder. Dropped, it stops writing.
pub(super) struct PartWriter {
    lease: Arc<WriterLease>,
    target: BackupTarget,
    id: Arc<str>,
    dir: String,
    status: Arc<BackupStatus>,
    /// Lets users' requests have the processors between two parts.
    scheduler: BackgroundScheduler,
    entries: Vec<PartEntry>,
    /// Number of parts that were begun.
    count: usize,
    pending: Option<AbortOnDropHandle<Result<PartEntry, BackupError>>>,
}

impl PartWriter {
    /// Creates the writer of `dir`, a folder of backup `id`.
    pub(super) fn new(
        (target, lease): (&BackupTarget, &Arc<WriterLease>),
        id: &Arc<str>,
        dir: String,
        (status, scheduler): (&Arc<BackupStatus>, &BackgroundScheduler),
    ) -> Self {
        Self {
            lease: lease.clone(),
            target: target.clone(),
            id: id.clone(),
            dir,
            status: status.clone(),
            scheduler: scheduler.clone(),
            entries: Vec::new(),
            count: 0,
            pending: None,
        }
    }

    /// Begins to write a part of so many records, once the one before it is written.
    pub(super) async fn write(
        &mut self,
        message: impl Message + 'static,
        records: u64,
    ) -> Result<(), BackupError> {
        self.await_pending().await?;
        let name = part_name(&self.dir, self.count);
        self.count += 1;
        let (target, id, lease) = (self.target.clone(), self.id.clone(), self.lease.clone());
        let scheduler = self.scheduler.clone();
        let write = async move {
            let encode = move || encode_part(&message, name, records);
            let permit = scheduler.acquire().await;
            let encoded = permit.run(tokio::task::spawn_blocking(encode)).await;
            let (bytes, entry) = encoded??;
            lease.check().await?;
            target.put(&id, &entry.name, bytes).await?;
            Ok(entry)
        };
        self.pending = Some(AbortOnDropHandle::new(tokio::spawn(write)));
        Ok(())
    }

    async fn await_pending(&mut self) -> Result<(), BackupError> {
        if let Some(pending) = self.pending.take() {
            let entry = pending.await??;
            self.status.add_bytes(entry.bytes);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Returns the compressed size of the parts that are written.
    pub(super) fn written_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Waits for the last part, and removes what an earlier attempt has left in the folder. Returns
    /// the parts.
    pub(super) async fn finish(mut self) -> Result<Vec<PartEntry>, BackupError> {
        self.await_pending().await?;
        self.lease.check().await?;
        for name in self.target.names(&self.id, &self.dir).await? {
            if !self.entries.iter().any(|entry| entry.name == name) {
                self.target.delete(&self.id, &name).await?;
            }
        }
        Ok(self.entries)
    }
}
