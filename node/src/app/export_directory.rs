//! Exports what the data directory of a node holds that doesn't run, as lines of an import: what
//! other regions may lack, or everything.
//!
//! The shards' logs are applied first, also entries that aren't known to be committed: nothing that
//! the directory holds is left out. The command does that in a copy of the state, so that the node
//! can be started afterwards as if nothing had happened: other members of a shard may have replaced
//! these entries.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::export_files::ExportFiles;
use crate::clock::Clock;
use crate::cluster::{Identity, IdentityError, read_marker};
use crate::config::ExportDirectoryArgs;
use crate::raft::OfflineGroup;
use crate::shard::{BulkCopyChunk, Shard, ShardState, ShardView, StateMemory};
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings, OpenError, blocking};
use crate::types::Nanos;

/// Sizes of the storage while it is exported.
const ENGINE_SETTINGS: EngineSettings = EngineSettings {
    block_cache_bytes: 64 << 20,
    write_buffer_bytes: 64 << 20,
    log_segment_bytes: 16 << 20,
    compaction_rate: 0,
};

/// Error of exporting a data directory.
#[derive(Debug, thiserror::Error)]
pub enum ExportDirectoryError {
    /// It holds no node's data.
    #[error(
        "{} isn't the data directory of a node that has belonged to a cluster: give --data-dir the \
         directory that holds its identity.json",
        .0.display()
    )]
    NoNode(PathBuf),
    /// It has another format.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node runs.
    #[error(
        "data directory {} is in use: stop the node, and let it stay stopped until the export has \
         ended",
        .0.display()
    )]
    Running(PathBuf),
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The target directory isn't empty.
    #[error("{} isn't empty: give --to a directory that is, or that doesn't exist", .0.display())]
    NotEmpty(PathBuf),
    /// The node had no replica of any shard.
    #[error(
        "data directory {} holds no replica of any shard: there is nothing to export",
        .0.display()
    )]
    NoReplica(PathBuf),
    /// There is no change log.
    #[error(
        "data directory {} is of a cluster with one region, which keeps no log of what other \
         regions lack: export everything with --all",
        .0.display()
    )]
    NoChangeLog(PathBuf),
    /// A shard can't be read or exported.
    #[error("export {group}")]
    Group {
        /// The shard's group.
        group: GroupId,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The target directory can't be read or written.
    #[error("{verb} directory {}", .dir.display())]
    Target {
        /// The failed action.
        verb: &'static str,
        /// The directory.
        dir: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// What an export has written, and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExportSummary {
    /// Number of lines.
    pub lines: u64,
    /// Number of buckets.
    pub buckets: u64,
    /// Number of shards that the directory holds a replica of.
    pub replicas: u16,
    /// True if a shard knows of other regions, and so keeps a log of what they lack.
    pub has_change_log: bool,
}

/// Exports the data directory of a stopped node, which is left as it is, and passes lines for the
/// terminal to `report`.
pub async fn export_directory(
    args: &ExportDirectoryArgs,
    report: &mut (dyn FnMut(&str) + Send),
) -> Result<(), ExportDirectoryError> {
    let (dir, to) = (&args.data_dir, &args.to);
    Identity::check_format(dir)?;
    let identity = Identity::read(dir).filter(Identity::is_member);
    let identity = identity.ok_or_else(|| ExportDirectoryError::NoNode(dir.clone()))?;
    check_empty(to)?;
    let opened = blocking(|| Engine::open_with_state_copy(dir, &ENGINE_SETTINGS));
    let engine = Arc::new(opened.map_err(|error| match error {
        OpenError::Locked(dir) => ExportDirectoryError::Running(dir),
        error => error.into(),
    })?);
    report(&format!(
        "reading data directory {} of node {}, region {}; its logs are applied to a copy of its \
         state",
        dir.display(),
        identity.node_id,
        identity.region
    ));
    if let Ok(Some(reason)) = read_marker(dir) {
        report(&format!("warning: the directory is marked: {reason}"));
    }
    let exported = export_unsent(&engine, &identity, to, args.all).await;
    drop(engine);
    // The next start of the node removes it, too.
    if let Err(error) = blocking(|| Engine::remove_state_copy(dir)) {
        report(&format!(
            "warning: the copy of the state was not removed: {error}"
        ));
    }
    let summary = exported?;
    if summary.replicas == 0 {
        return Err(ExportDirectoryError::NoReplica(dir.clone()));
    }
    if !args.all && !summary.has_change_log {
        return Err(ExportDirectoryError::NoChangeLog(dir.clone()));
    }
    report_summary(&summary, to, report);
    Ok(())
}

fn report_summary(summary: &ExportSummary, to: &Path, report: &mut (dyn FnMut(&str) + Send)) {
    if summary.lines == 0 {
        report("there is nothing to import: no file was written");
        return;
    }
    report(&format!(
        "{} lines of {} buckets written to {}",
        with_separators(summary.lines),
        with_separators(summary.buckets),
        to.display()
    ));
    report("import them with POST /buckets/{bucket}/import?mode=newer");
}

/// Exports what other regions may lack of the shards of `engine`, which no group uses: the entries
/// of their change logs, deletions included; all live keys if `all` is set. Files of buckets must
/// not be in the directory `to`, which is created if it is missing. Durable when it returns.
///
/// The logs are applied to the state: unless it is a copy, the node must not start with it.
pub(super) async fn export_unsent(
    engine: &Arc<Engine>,
    identity: &Identity,
    to: &Path,
    all: bool,
) -> Result<ExportSummary, ExportDirectoryError> {
    let failed = |verb| {
        move |source| ExportDirectoryError::Target {
            verb,
            dir: to.to_owned(),
            source,
        }
    };
    let mut files = ExportFiles::create(to).map_err(failed("create"))?;
    let now = Clock::new().now();
    let mut summary = ExportSummary::default();
    for number in 0..identity.shards {
        let group = GroupId::shard(number);
        let failed = |source| ExportDirectoryError::Group { group, source };
        let Some(view) = open_shard(engine, group).await.map_err(failed)? else {
            continue;
        };
        summary.replicas += 1;
        summary.has_change_log |= !view.replication().borrow().header.peers.is_empty();
        let exported = blocking(|| match all {
            true => export_live_keys(&view, now, &mut files),
            false => export_changes(&view, &mut files),
        });
        exported.map_err(failed)?;
    }
    blocking(|| files.finish()).map_err(failed("sync"))?;
    Ok(ExportSummary {
        lines: files.lines(),
        buckets: files.buckets(),
        ..summary
    })
}

/// Opens a shard with all entries of its log applied; `None` if the directory holds nothing of it.
async fn open_shard(engine: &Arc<Engine>, group: GroupId) -> io::Result<Option<Arc<ShardView>>> {
    let db = engine.state.clone();
    let mut view = None;
    let mut replica = OfflineGroup::<Shard>::open(engine, group, |rows| {
        let state = ShardState::open(db, rows, StateMemory::OFFLINE)?;
        view = Some(state.view());
        Ok(state)
    })?;
    if replica.is_empty() {
        return Ok(None);
    }
    replica.apply_log().await?;
    Ok(view)
}

/// Writes all changes that the shard retains for other regions. Blocks.
fn export_changes(view: &ShardView, files: &mut ExportFiles) -> io::Result<()> {
    let mut position = 0;
    loop {
        // No region has number 0: changes of all regions are returned.
        let batch = view.changes_after(0, position)?;
        position = batch.merge.to;
        files.write_records(batch.merge.records)?;
        if !batch.has_more {
            return Ok(());
        }
    }
}

/// Writes all keys that are live at `now`. Blocks.
fn export_live_keys(view: &ShardView, now: Nanos, files: &mut ExportFiles) -> io::Result<()> {
    let now = now.max(view.last_version());
    view.bulk_copy(|chunk| match chunk {
        BulkCopyChunk::Header(_) => Ok(()),
        BulkCopyChunk::Records(chunk) => files.write_live_records(chunk.records, now),
    })
}

/// Refuses a target that holds something.
fn check_empty(to: &Path) -> Result<(), ExportDirectoryError> {
    let first = match std::fs::read_dir(to) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(ExportDirectoryError::Target {
                verb: "read",
                dir: to.to_owned(),
                source,
            });
        }
    };
    match first {
        Some(_) => Err(ExportDirectoryError::NotEmpty(to.to_owned())),
        None => Ok(()),
    }
}

/// Formats a number with a comma between each three digits.
fn with_separators(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[path = "export_directory_tests.rs"]
mod tests;
