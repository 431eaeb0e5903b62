//! Imports what this node alone had before its region joined the others anew, once the region
//! serves.
//!
//! Invariant: a file is imported only after the region has everything that the others had written
//! before. An imported key gets a new version, which would hide a newer value that is still under
//! way.
//!
//! An import that a stop interrupts begins again with the file that it was at; what is done already
//! is skipped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::process::describe_error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::recovered_files::{self, RECOVERED_DIR, RecoveredFile};
use crate::api::{FileImport, FileImportError, FileImportReport, KnownLines};
use crate::cluster::recovery_file::{self, RecoveryStep};
use crate::cluster::rejoin_scope::RejoinScope;
use crate::cluster::{Identity, ReadinessProbe};
use crate::geo::GeoReplication;
use crate::service::{KeyError, Service, SessionToken};
use crate::shard::shard_of;
use crate::types::BucketId;

/// Interval at which the region is checked until it serves.
const SERVING_CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Time after which what has failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of times that a file is imported, while some of its lines fail for reasons that
/// may pass.
const MAX_ATTEMPTS: u32 = 10;

/// Import of what this node alone had.
struct RecoveredImport {
    service: Service,
    geo: Arc<GeoReplication>,
    readiness: Arc<ReadinessProbe>,
    identity: Identity,
    data_dir: PathBuf,
}

/// What became of all lines.
#[derive(Debug, Default)]
struct ImportTotals {
    imported: u64,
    skipped: u64,
    failed: u64,
}

/// Reason why the import doesn't go on now.
#[derive(Debug, thiserror::Error)]
enum ImportFailure {
    #[error("read or write the recovered files")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Lines(#[from] FileImportError),
    #[error("wait for what the other regions have written")]
    Behind(#[from] KeyError),
    #[error("wait for what the other regions have written: {0}")]
    Peers(String),
    /// The node stops.
    #[error("the node is stopping")]
    Stopped,
}

impl Node {
    /// Spawns the import of what this node alone had before its region joined anew, if that is to
    /// be done.
    pub(super) fn spawn_recovered_import(&self) {
        let components = &self.components;
        let step = match recovery_file::read(&components.data_dir) {
            Ok(pending) => pending.map(|pending| pending.step),
            Err(error) => {
                tracing::error!(%error, "reading recovery.json failed: nothing is imported");
                return;
            }
        };
        if !matches!(step, Some(RecoveryStep::RegionImport { .. })) {
            return;
        }
        let import = RecoveredImport {
            service: self.service.clone(),
            geo: self.geo.clone(),
            readiness: components.readiness.clone(),
            identity: components.groups.identity.clone(),
            data_dir: components.data_dir.clone(),
        };
        self.tasks.spawn(import.run(self.stop.node.clone()));
    }
}

impl RecoveredImport {
    /// Imports all files, and removes the pending recovery; until `stop`.
    async fn run(self, stop: CancellationToken) {
        let mut totals = ImportTotals::default();
        loop {
            let import = self.import_all(&mut totals, &stop);
            let error = match stop.run_until_cancelled(import).await {
                None | Some(Err(ImportFailure::Stopped)) => return,
                Some(Ok(())) => break,
                Some(Err(error)) => error,
            };
            let error = describe_error(&error);
            tracing::warn!(
                error,
                retry_in = ?RETRY_INTERVAL,
                "import of recovered keys failed, retrying"
            );
            if stop
                .run_until_cancelled(sleep(RETRY_INTERVAL))
                .await
                .is_none()
            {
                return;
            }
        }
        let ImportTotals {
            imported,
            skipped,
            failed,
        } = totals;
        let region = &self.identity.region;
        tracing::info!(region, imported, skipped, failed, "region recovered");
    }

    async fn import_all(
        &self,
        totals: &mut ImportTotals,
        stop: &CancellationToken,
    ) -> Result<(), ImportFailure> {
        while !self.readiness.serves_keys() {
            sleep(SERVING_CHECK_INTERVAL).await;
        }
        let dir = self.data_dir.join(RECOVERED_DIR);
        for file in recovered_files::list(&dir)? {
            self.await_other_regions(&file.bucket).await?;
            let scope = RejoinScope::read(&dir, &recovered_files::scope_file(file.node))?;
            let scope = Arc::new(scope.unwrap_or_default());
            match self.import_file(&file, &scope, stop).await {
                Ok(report) => {
                    totals.imported += report.imported;
                    totals.skipped += report.skipped;
                    totals.failed += report.failed;
                    log_imported(&file, &report);
                    let finish = move || file.finish(&report.failed_lines);
                    blocking(finish).await?;
                }
                Err(ImportFailure::Lines(FileImportError::UnknownBucket)) => {
                    tracing::warn!(
                        bucket = ?file.bucket,
                        "recovered keys skipped: their bucket was deleted"
                    );
                    file.skip()?;
                }
                Err(error) => return Err(error),
            }
        }
        recovery_file::remove(&self.data_dir)?;
        Ok(())
    }

    /// Imports a file, again while lines fail for reasons that may pass.
    async fn import_file(
        &self,
        file: &RecoveredFile,
        scope: &Arc<RejoinScope>,
        stop: &CancellationToken,
    ) -> Result<FileImportReport, ImportFailure> {
        let (mut attempts, mut imported) = (0, 0);
        loop {
            attempts += 1;
            let import = FileImport {
                service: &self.service,
                bucket: file.bucket,
                path: &file.path,
                known: self.known_lines(file.bucket, scope.clone()),
            };
            let report = import.run(stop).await?;
            let mut report = report.ok_or(ImportFailure::Stopped)?;
            if !report.may_succeed_later || attempts == MAX_ATTEMPTS {
                // What an earlier attempt has written, this one has skipped.
                report.skipped = report.skipped.saturating_sub(imported);
                report.imported += imported;
                return Ok(report);
            }
            imported += report.imported;
            tracing::warn!(
                bucket = ?file.bucket,
                failed = report.failed,
                first_error = report.first_error,
                retry_in = ?RETRY_INTERVAL,
                "import of recovered keys failed for some, retrying"
            );
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Waits until this region has all that the others had written before this call.
    async fn await_other_regions(&self, bucket: &BucketId) -> Result<(), ImportFailure> {
        let directory = &self.service.directory;
        let Some(topology) = directory.multi_region_topology() else {
            return Ok(());
        };
        let mut session = SessionToken::default();
        for (shard, version) in self
            .geo
            .peer_versions()
            .await
            .map_err(ImportFailure::Peers)?
        {
            session.record(shard, version, &topology);
        }
        let keyspace = &self.service.keyspace;
        Ok(keyspace.await_session_everywhere(bucket, &session).await?)
    }

    /// Decides which lines of a bucket other regions, or another node of this one, have.
    fn known_lines(&self, bucket: BucketId, scope: Arc<RejoinScope>) -> KnownLines {
        let topology = self.service.directory.multi_region_topology();
        let members: Vec<u32> = topology.map_or_else(Vec::new, |topology| {
            let regions = topology.all_regions().iter();
            let staying = regions.filter(|(_, region)| !region.is_removing);
            staying.map(|(number, _)| *number).collect()
        });
        let shards = self.identity.shards;
        Box::new(move |key, version| {
            let shard = shard_of(bucket.as_bytes(), key, shards);
            scope.is_known(shard, version, &members)
        })
    }
}

fn log_imported(file: &RecoveredFile, report: &FileImportReport) {
    let (bucket, failed) = (file.bucket, report.failed);
    let (imported, skipped) = (report.imported, report.skipped);
    if failed == 0 {
        tracing::info!(?bucket, imported, skipped, "recovered keys imported");
        return;
    }
    tracing::error!(
        ?bucket,
        imported,
        skipped,
        failed,
        first_error = report.first_error,
        "recovered keys imported, but not all: the failed lines are in recovered/*.failed.ndjson \
         of the data directory, for an import with mode=newer once what refused them is resolved"
    );
}

/// Runs an operation that waits for the disk.
async fn blocking(operation: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(operation).await;
    done.map_err(io::Error::other)?
}
