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

    /// Waits until nothing is being written any more, whatever becomes of it: the parts are to be
    /// replaced.
    pub(super) async fn settle(mut self) {
        if let Some(pending) = self.pending.take() {
            // The parts aren't used.
            let _ = pending.await;
        }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cloudkv_proto::v1 as pb;
    use tempfile::TempDir;

    use super::*;
    use crate::backup::format::shard_dir;
    use crate::backup::part::decode_content;

    const ID: &str = "20261201T034500Z";

    /// A place of backups, and what a writer to it needs.
    struct Place {
        _dir: TempDir,
        target: BackupTarget,
        id: Arc<str>,
        lease: Arc<WriterLease>,
        status: Arc<BackupStatus>,
    }

    impl Place {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let target = BackupTarget::open(&format!("file://{}", dir.path().display())).unwrap();
            let id: Arc<str> = Arc::from(ID);
            let lease = WriterLease::take(&target, &id, &Arc::from("n1")).await;
            Self {
                _dir: dir,
                target,
                id,
                lease: Arc::new(lease.unwrap()),
                status: Arc::default(),
            }
        }

        fn writer(&self) -> PartWriter {
            let (target, scheduler) = (&self.target, BackgroundScheduler::new(100));
            let pace = (&self.status, &scheduler);
            PartWriter::new((target, &self.lease), &self.id, shard_dir(0), pace)
        }

        async fn names(&self) -> Vec<String> {
            self.target.names(ID, &shard_dir(0)).await.unwrap()
        }
    }

    fn part(number: usize) -> pb::BackupRecords {
        let record = pb::KeyRecord {
            key: Bytes::from(format!("key {number}")),
            ..Default::default()
        };
        pb::BackupRecords {
            records: vec![record],
        }
    }

    #[tokio::test]
    async fn parts_are_written_in_their_order_and_those_of_an_earlier_attempt_removed() {
        let place = Place::new().await;
        let old = [part_name(&shard_dir(0), 1), part_name(&shard_dir(0), 7)];
        for name in &old {
            place.target.put(ID, name, Bytes::new()).await.unwrap();
        }
        let mut writer = place.writer();
        for number in 0..3 {
            writer.write(part(number), 1).await.unwrap();
        }
        let entries = writer.finish().await.unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        assert_eq!(
            names,
            [0, 1, 2].map(|number| part_name(&shard_dir(0), number))
        );
        assert_eq!(place.names().await, names);
        for (number, entry) in entries.iter().enumerate() {
            let bytes = place.target.get(ID, &entry.name).await.unwrap();
            let read: pb::BackupRecords = decode_content(&bytes, entry).unwrap();
            assert_eq!(read, part(number));
        }
    }

    #[tokio::test]
    async fn a_writer_that_has_settled_writes_nothing_more() {
        let place = Place::new().await;
        let mut writer = place.writer();
        writer.write(part(0), 1).await.unwrap();
        writer.settle().await;
        // All of the part is there already, and the next attempt replaces it.
        assert_eq!(place.names().await, [part_name(&shard_dir(0), 0)]);
    }

    #[tokio::test]
    async fn without_the_lease_nothing_is_written() {
        let place = Place::new().await;
        let lease = crate::backup::writer_lease::LEASE_FILE;
        place.target.delete(ID, lease).await.unwrap();
        let mut writer = place.writer();
        writer.write(part(0), 1).await.unwrap();
        let finished = writer.finish().await;
        assert!(
            matches!(finished, Err(BackupError::Busy { .. })),
            "{finished:?}"
        );
        assert_eq!(place.names().await, [""; 0]);
    }
}
