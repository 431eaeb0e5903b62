//! Restores a backup into the data directory of a new cluster's first node, which doesn't run. A
//! node that is started with the directory serves the cluster, and others can join it.
//!
//! Invariant: the directory is marked as unusable before anything else is written to it, and until
//! everything is durable: no node starts with a part of a backup.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::restore_error::RestoreError;
use super::restored_metadata::RestoredMetadata;
use super::restored_shards::{RestoreSummary, RestoredShards};
use crate::backup::{BackupError, BackupTarget, Manifest, complete_backups, read_manifest};
use crate::clock::Clock;
use crate::cluster::{Identity, RequestedIdentity, remove_marker, write_marker};
use crate::config::RestoreArgs;
use crate::meta;
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings, blocking};

/// Sizes of the storage while it is written.
const ENGINE_SETTINGS: EngineSettings = EngineSettings {
    block_cache_bytes: 64 << 20,
    write_buffer_bytes: 64 << 20,
    log_segment_bytes: 16 << 20,
    compaction_rate: 0,
};
/// Region of the new cluster, unless another one is given.
const DEFAULT_REGION: &str = "local";
/// Permissions of the data directory: only its user may read it.
const DIRECTORY_MODE: u32 = 0o700;
/// Entry of a new file system's top directory, which doesn't count as content.
const LOST_AND_FOUND: &str = "lost+found";
/// Mark of a directory into which a restore has begun.
const UNFINISHED_MARKER: &str = "a restore of a backup into it has not ended: if that doesn't run \
                                 any more, remove the directory, and restore the backup again";

/// Restores a backup into a new data directory, and passes lines for the terminal to `report`.
///
/// # Errors
/// Fails if no backup is chosen or it isn't intact, and if the directory isn't empty. What was
/// written by then stays, in a directory from which no node starts.
pub async fn restore(
    args: &RestoreArgs,
    report: &mut (dyn FnMut(&str) + Send),
) -> Result<(), RestoreError> {
    let target = BackupTarget::open(&args.from)?;
    let manifest = choose_backup(&target, args.id.as_deref(), report).await?;
    if manifest.level > meta::MAX_FEATURE_LEVEL {
        return Err(RestoreError::LaterLevel {
            id: manifest.start.id,
            level: manifest.level,
        });
    }
    let shards = args.shards.unwrap_or(manifest.start.shards);
    if shards == 0 {
        return Err(RestoreError::NoShards);
    }
    let dir = &args.data_dir;
    blocking(|| prepare_directory(dir))?;
    let region = args.region.as_ref().map(ToString::to_string);
    let requested = RequestedIdentity {
        region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        shards: Some(shards),
        is_joining: false,
        has_log: false,
    };
    let engine = Arc::new(blocking(|| Engine::open(dir, &ENGINE_SETTINGS))?);
    let identity = Identity::open(dir, &requested)?;
    let restored = restore_groups(&engine, &identity, &target, &manifest, report).await;
    blocking(|| drop(engine));
    let summary = restored?;
    blocking(|| remove_marker(dir)).map_err(failed("unmark", dir))?;
    report_summary(&summary, &identity, dir, report);
    Ok(())
}

/// Reads the manifest of the backup with this ID, or of the newest complete one.
async fn choose_backup(
    target: &BackupTarget,
    id: Option<&str>,
    report: &mut (dyn FnMut(&str) + Send),
) -> Result<Manifest, RestoreError> {
    let id = match id {
        Some(id) => id.to_owned(),
        None => {
            let mut complete = complete_backups(target).await?;
            let url = target.url();
            if complete.len() > 1 {
                let count = complete.len();
                report(&format!(
                    "{url} has {count} complete backups, of which the newest is restored; --id \
                     chooses another one"
                ));
            }
            let none = || BackupError::NoBackup {
                url: url.to_owned(),
            };
            complete.pop().ok_or_else(none)?
        }
    };
    let manifest = read_manifest(target, &id).await?;
    let start = &manifest.start;
    report(&format!(
        "restoring backup {id} of region {} of cluster {}: {} records in {} shards, as of {}",
        start.region, start.cluster_id, manifest.records, start.shards, manifest.finished_at
    ));
    Ok(manifest)
}

/// Creates and marks the directory, which must be empty if it exists. Blocks.
fn prepare_directory(dir: &Path) -> Result<(), RestoreError> {
    let mut builder = DirBuilder::new();
    let created = builder.recursive(true).mode(DIRECTORY_MODE).create(dir);
    created.map_err(failed("create", dir))?;
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        if entry.map_err(failed("read", dir))?.file_name() != LOST_AND_FOUND {
            return Err(RestoreError::NotEmpty(dir.to_owned()));
        }
    }
    write_marker(dir, UNFINISHED_MARKER).map_err(failed("mark", dir))
}

fn failed(verb: &'static str, dir: &Path) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::Directory {
        verb,
        dir: dir.to_owned(),
        source,
    }
}

/// Writes the metadata, and then all shards, with this node as the only voter of each. Durable when
/// it returns.
async fn restore_groups(
    engine: &Arc<Engine>,
    identity: &Identity,
    target: &BackupTarget,
    manifest: &Manifest,
    report: &mut (dyn FnMut(&str) + Send),
) -> Result<RestoreSummary, RestoreError> {
    let last_version = manifest.shard_files.iter().map(|entry| entry.last_version);
    let last_version = last_version.max().unwrap_or(0);
    // What shards take for the time, too: no clock is behind their versions.
    let now = Clock::new().now().max(last_version);
    let metadata = RestoredMetadata::read(target, manifest, now).await?;
    if let Some(line) = metadata.describe_omissions() {
        report(&line);
    }
    let (accounts, buckets) = (metadata.account_count(), metadata.bucket_ids());
    let written = metadata.write(engine, identity, now).await;
    written.map_err(|source| RestoreError::Group {
        group: GroupId::META,
        source,
    })?;
    let count = buckets.len();
    report(&format!("{accounts} accounts and {count} buckets restored"));
    let mut shards = RestoredShards::open(engine, identity, buckets, now).await?;
    shards.restore(target, manifest, report).await?;
    shards.finish(identity, last_version).await
}

fn report_summary(
    summary: &RestoreSummary,
    identity: &Identity,
    dir: &Path,
    report: &mut (dyn FnMut(&str) + Send),
) {
    if summary.expired > 0 {
        report(&format!(
            "{} records have expired since, and were left out",
            summary.expired
        ));
    }
    if summary.orphaned > 0 {
        report(&format!(
            "{} records of buckets that were deleted while the backup was made were left out",
            summary.orphaned
        ));
    }
    report(&format!(
        "{} records restored into {}: region {}, {} shards, a cluster of its own ({})",
        summary.restored,
        dir.display(),
        identity.region,
        identity.shards,
        identity.cluster_id
    ));
    report(&format!(
        "start its first node with `cloudkv-node --data-dir {}`",
        dir.display()
    ));
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
