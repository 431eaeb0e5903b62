//! Makes a backup of the region: all shards, each in one view at its leader, and then the metadata.
//!
//! Invariant: the metadata is read after all shards, at a position that has everything acknowledged
//! before. So the bucket of each record is in the backup, unless it was deleted meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cloudkv_common::process::describe_error;
use cloudkv_proto::v1 as pb;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::error::BackupError;
use super::format::{
    BackupStart, MANIFEST_FILE, METADATA_DIR, Manifest, PartEntry, ShardEntry, shard_dir,
    shard_file, to_json,
};
use super::metadata_parts::metadata_parts;
use super::part::PART_BYTES;
use super::part_writer::PartWriter;
use super::progress::BackupLine;
use super::resume::{BackupPlan, plan_backup};
use super::status::BackupStatus;
use super::target::BackupTarget;
use super::writer_lease::WriterLease;
use crate::background::BackgroundScheduler;
use crate::meta::Catalog;
use crate::service::{KeyError, MetadataClient, RecordScan, RecordScans, Unavailable};

/// Minimum interval between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Number of times that the scan of a shard is begun, as its leader may change.
const MAX_SCANS: u32 = 5;
/// Backoff before the scan of a shard is begun again.
const RESCAN_BACKOFF: Duration = Duration::from_secs(1);

/// What a backup is made of.
#[derive(Clone)]
pub(super) struct BackupSource {
    pub scans: RecordScans,
    pub metadata: MetadataClient,
    pub catalog: Arc<Catalog>,
    /// Begin of each backup, without ID and time.
    pub start: BackupStart,
}

/// A backup that is being made.
pub(super) struct BackupJob {
    pub source: BackupSource,
    pub target: BackupTarget,
    /// Name of this node.
    pub node: Arc<str>,
    /// True if it doesn't go on with one that was interrupted.
    pub is_new: bool,
    pub status: Arc<BackupStatus>,
    pub lines: mpsc::Sender<BackupLine>,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
    /// Held as long as it runs.
    pub permit: OwnedSemaphorePermit,
}

/// Reason for which a backup was interrupted.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("read shard-{shard}")]
    Shard {
        shard: u16,
        #[source]
        source: KeyError,
    },
    #[error("read the metadata: {0}")]
    Metadata(Unavailable),
    #[error("the node stops")]
    Stopping,
}

impl JobError {
    fn code(&self) -> &'static str {
        match self {
            Self::Backup(BackupError::Credentials { .. } | BackupError::BadUrl { .. }) => {
                "bad_target"
            }
            Self::Backup(BackupError::Refused { .. }) => "target_refused",
            Self::Backup(BackupError::Busy { .. }) => "backup_running",
            Self::Backup(_) => "target_failed",
            Self::Shard { .. } | Self::Metadata(_) => "unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// A shard of the backup with this ID, and the lease to write it.
type ShardFolder<'a> = (&'a Arc<WriterLease>, &'a Arc<str>, u16);

/// Progress of one call.
struct RunProgress {
    started: Instant,
    last_line: Instant,
    records: u64,
    bytes: u64,
}

impl BackupJob {
    /// Makes the backup, and sends what becomes of it as the last line.
    pub(super) async fn run(self) {
        self.status.begin();
        // Counts as failed if this is dropped before its end.
        let mut end = EndGuard {
            status: self.status.clone(),
            is_complete: false,
        };
        let made = self.stop.run_until_cancelled(self.make()).await;
        let last = match made.unwrap_or(Err(JobError::Stopping)) {
            Ok(line) => {
                end.is_complete = true;
                line
            }
            Err(error) => {
                let message = describe_error(&error);
                tracing::warn!(
                    error = message,
                    url = self.target.url(),
                    "backup interrupted"
                );
                BackupLine::Failed {
                    error: error.code().to_owned(),
                    message,
                }
            }
        };
        drop(end);
        drop(self.permit);
        // Fails only if nobody waits for it any more.
        let _ = self.lines.send(last).await;
    }

    async fn make(&self) -> Result<BackupLine, JobError> {
        let now = SystemTime::now();
        let start = self.source.start.clone();
        let plan = plan_backup(&self.target, start, (now, self.is_new)).await?;
        let id: Arc<str> = Arc::from(plan.start.id.as_str());
        let shards = plan.start.shards;
        tracing::info!(%id, url = self.target.url(), resumed = plan.is_resumed, "backup begun");
        let begin = BackupLine::Begin {
            id: id.to_string(),
            resumed: plan.is_resumed,
            kept_shards: u16::try_from(plan.kept.len()).unwrap_or(u16::MAX),
            shards,
        };
        let _ = self.lines.send(begin).await;
        let started = Instant::now();
        let lease = Arc::new(WriterLease::take(&self.target, &id, &self.node).await?);
        let made = self.write_all(plan, &lease).await;
        if let Some(lease) = Arc::into_inner(lease) {
            lease.give_back().await;
        }
        let manifest = made?;
        tracing::info!(%id, records = manifest.records, bytes = manifest.bytes, "backup complete");
        Ok(BackupLine::End {
            end: true,
            id: id.to_string(),
            records: manifest.records,
            bytes: manifest.bytes,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Writes everything that the backup lacks.
    async fn write_all(
        &self,
        plan: BackupPlan,
        lease: &Arc<WriterLease>,
    ) -> Result<Manifest, JobError> {
        let started = Instant::now();
        let mut progress = RunProgress {
            started,
            last_line: started,
            records: 0,
            bytes: 0,
        };
        let id: Arc<str> = Arc::from(plan.start.id.as_str());
        let mut kept = plan.kept;
        let mut shard_files = Vec::new();
        for shard in 0..plan.start.shards {
            shard_files.push(match kept.remove(&shard) {
                Some(entry) => entry,
                None => {
                    let folder = (lease, &id, shard);
                    self.back_up_shard(folder, &mut progress).await?
                }
            });
        }
        let metadata = self.back_up_metadata((lease, &id), &mut progress).await?;
        let manifest = self.finish(lease, plan.start, (shard_files, metadata));
        Ok(manifest.await?)
    }

    /// Writes the manifest: the backup is complete then.
    async fn finish(
        &self,
        lease: &WriterLease,
        start: BackupStart,
        (shard_files, metadata): (Vec<ShardEntry>, Vec<PartEntry>),
    ) -> Result<Manifest, BackupError> {
        let of_shards = shard_files.iter().flat_map(|entry| &entry.parts);
        let bytes = of_shards.chain(&metadata).map(|part| part.bytes).sum();
        let now = SystemTime::now();
        let manifest = Manifest {
            start,
            finished_at: humantime::format_rfc3339_seconds(now).to_string(),
            level: self.source.catalog.header().level,
            records: shard_files.iter().map(|entry| entry.records).sum(),
            bytes,
            metadata,
            shard_files,
            checksum: String::new(),
        };
        let manifest = manifest.seal()?;
        let json = to_json(MANIFEST_FILE, &manifest)?;
        lease.check().await?;
        self.target
            .put(&manifest.start.id, MANIFEST_FILE, json)
            .await?;
        Ok(manifest)
    }

    /// Writes the parts of a shard, and its file. Begins again if its scan breaks off.
    async fn back_up_shard(
        &self,
        (lease, id, shard): ShardFolder<'_>,
        progress: &mut RunProgress,
    ) -> Result<ShardEntry, JobError> {
        let name = shard_file(shard);
        // What it names is about to be replaced.
        lease.check().await?;
        self.target.delete(id, &name).await?;
        let mut scans = 1;
        let entry = loop {
            match self.try_back_up_shard((lease, id, shard), progress).await {
                Ok(entry) => break entry,
                Err(JobError::Shard { .. }) if scans < MAX_SCANS => scans += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(RESCAN_BACKOFF).await;
        };
        let json = to_json(&name, &entry)?;
        lease.check().await?;
        self.target.put(id, &name, json).await?;
        Ok(entry)
    }

    async fn try_back_up_shard(
        &self,
        (lease, id, shard): ShardFolder<'_>,
        progress: &mut RunProgress,
    ) -> Result<ShardEntry, JobError> {
        let failed = |source| JobError::Shard { shard, source };
        let (mut scan, start) = self.source.scans.open(shard).await.map_err(failed)?;
        let mut writer = PartWriter::new((&self.target, lease), id, shard_dir(shard), self.pace());
        let begun_at = progress.bytes;
        let read = self.read_shard((shard, &mut scan), &mut writer, progress);
        let records = match read.await {
            Ok(records) => records,
            Err(error) => {
                // What is still being written must not replace what the next attempt writes.
                writer.settle().await;
                return Err(error);
            }
        };
        let parts = writer.finish().await?;
        progress.bytes = begun_at + parts.iter().map(|part| part.bytes).sum::<u64>();
        Ok(ShardEntry {
            shard,
            applied_index: start.applied_index,
            last_version: start.last_version,
            records,
            parts,
        })
    }

    /// Reads all records of a scan, and writes them in parts. Returns their number.
    async fn read_shard(
        &self,
        (shard, scan): (u16, &mut RecordScan),
        writer: &mut PartWriter,
        progress: &mut RunProgress,
    ) -> Result<u64, JobError> {
        let failed = |source| JobError::Shard { shard, source };
        let (mut part, mut part_bytes, mut total) = (pb::BackupRecords::default(), 0, 0);
        let begun_at = progress.bytes;
        while let Some(records) = scan.next().await.map_err(failed)? {
            let count = records.len() as u64;
            self.status.add_records(count);
            total += count;
            progress.records += count;
            for record in records {
                part_bytes += record.encoded_len() + 8;
                part.records.push(record);
            }
            if part_bytes >= PART_BYTES {
                write_records(writer, &mut part).await?;
                part_bytes = 0;
                progress.bytes = begun_at + writer.written_bytes();
            }
            self.report(shard, progress);
        }
        if !part.records.is_empty() {
            write_records(writer, &mut part).await?;
        }
        Ok(total)
    }

    async fn back_up_metadata(
        &self,
        (lease, id): (&Arc<WriterLease>, &Arc<str>),
        progress: &mut RunProgress,
    ) -> Result<Vec<PartEntry>, JobError> {
        self.report(self.source.start.shards, progress);
        let barrier = self.source.metadata.barrier().await;
        barrier.map_err(JobError::Metadata)?;
        let dir = METADATA_DIR.to_owned();
        let mut writer = PartWriter::new((&self.target, lease), id, dir, self.pace());
        for (part, rows) in metadata_parts(&self.source.catalog) {
            writer.write(part, rows).await?;
        }
        let parts = writer.finish().await?;
        progress.bytes += parts.iter().map(|part| part.bytes).sum::<u64>();
        Ok(parts)
    }

    /// Counters, and the scheduler of what takes processor time.
    fn pace(&self) -> (&Arc<BackupStatus>, &BackgroundScheduler) {
        (&self.status, self.source.scans.scheduler())
    }

    /// Sends a line of progress, if one is due, and nobody has to wait for that.
    fn report(&self, shard: u16, progress: &mut RunProgress) {
        if progress.last_line.elapsed() < LINE_INTERVAL {
            return;
        }
        progress.last_line = Instant::now();
        let _ = self.lines.try_send(BackupLine::Progress {
            shard,
            shards: self.source.start.shards,
            records: progress.records,
            bytes: progress.bytes,
            seconds: progress.started.elapsed().as_secs_f64(),
        });
    }
}

async fn write_records(
    writer: &mut PartWriter,
    part: &mut pb::BackupRecords,
) -> Result<(), BackupError> {
    let part = std::mem::take(part);
    let records = part.records.len() as u64;
    writer.write(part, records).await
}

/// Records the end of a backup when it is dropped.
struct EndGuard {
    status: Arc<BackupStatus>,
    is_complete: bool,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.status.end(self.is_complete);
    }
}
