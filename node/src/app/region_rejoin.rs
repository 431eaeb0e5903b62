//! Prepares a node whose region leaves the cluster, and joins it anew: exports what only this node
//! has, and sets its old state aside. It is done at the start, before any group runs.
//!
//! ```text
//! RegionExport  export to recovered/  ──► RegionJoin  set aside to before-recovery/<node>/
//!   ──► (join_cluster: a new node)  ──► RegionImport  (`region_import`, once the region serves)
//! ```
//!
//! Invariants:
//! - the step is advanced only when what it has done is durable, and each can be repeated;
//! - nothing of the old state is removed;
//! - the old identity is moved last: while it is there, the directory is the old node's.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::errors::StartError;
use super::export_directory::export_unsent;
use super::membership::{engine_settings, open_engine};
use super::recovered_files::{self, EXPORT_DIR, RECOVERED_DIR};
use crate::cluster::Identity;
use crate::cluster::recovery_file::{self, PendingRecovery, RecoveryStep};
use crate::cluster::rejoin_scope::{RejoinScope, SCOPE_FILE};
use crate::config::Config;
use crate::raft::NodeId;
use crate::store::{Engine, blocking};

/// Directory with what the node had before, in the data directory.
const BEFORE_DIR: &str = "before-recovery";
/// Entries of a data directory that belong to the node's old state, in the order in which they are
/// moved. The mark of what was synced is first: without its log it would tell of a loss.
const OLD_STATE: [&str; 8] = [
    "log-synced",
    "state-damaged",
    "state",
    "state.new",
    "state.damaged",
    "log",
    "nodes.json",
    "replica-differs",
];
/// Entry of the identity, which is moved after all others.
const IDENTITY: &str = "identity.json";

/// Carries out the steps that come before the node joins the other regions anew. Returns its
/// storage: an empty one, once the old state was set aside.
pub(super) async fn export_and_reset(
    config: &Config,
    engine: Arc<Engine>,
    pending: &PendingRecovery,
) -> Result<Arc<Engine>, StartError> {
    let dir = &config.data_dir;
    match &pending.step {
        RecoveryStep::RegionExport { region, join } => {
            close(engine).await?;
            let files = export(config, pending.node).await;
            let files = files.map_err(failed("export what only this node has"))?;
            let next = PendingRecovery {
                step: RecoveryStep::RegionJoin {
                    region: region.clone(),
                    join: join.clone(),
                },
                ..pending.clone()
            };
            let written = recovery_file::write(dir, &next);
            written.map_err(failed("write recovery.json"))?;
            tracing::warn!(
                region,
                files,
                "exported what only this node has: its region joins the others anew"
            );
            set_old_state_aside(config, pending.node).await
        }
        RecoveryStep::RegionJoin { .. } => {
            let identity = Identity::read(dir);
            if identity.is_none_or(|identity| identity.node_id != pending.node) {
                // It was set aside before.
                return Ok(engine);
            }
            close(engine).await?;
            set_old_state_aside(config, pending.node).await
        }
        RecoveryStep::Metadata
        | RecoveryStep::Shards { .. }
        | RecoveryStep::RegionImport { .. } => Ok(engine),
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Rejoin { action, source }
}

/// Closes the storage, so that its files can be moved.
async fn close(engine: Arc<Engine>) -> Result<(), StartError> {
    let failed = failed("close the storage");
    let Some(engine) = Arc::into_inner(engine) else {
        return Err(failed(io::Error::other("it is still in use")));
    };
    let closed = tokio::task::spawn_blocking(move || drop(engine)).await;
    closed.map_err(|error| failed(io::Error::other(error)))
}

/// Exports what only this node has, from a copy of its state. Returns the number of files. They are
/// durable, and replace those of an export that was interrupted.
async fn export(config: &Config, node: NodeId) -> io::Result<usize> {
    let dir = config.data_dir.as_path();
    let identity = Identity::read(dir).filter(|identity| identity.node_id == node);
    let identity = identity.ok_or_else(|| {
        let message = "recovery.json was written for another node: remove it";
        io::Error::new(io::ErrorKind::InvalidData, message)
    })?;
    let (exported, recovered) = (dir.join(EXPORT_DIR), dir.join(RECOVERED_DIR));
    remove_dir(&exported)?;
    let opened = blocking(|| Engine::open_with_state_copy(dir, &engine_settings(config)));
    let engine = Arc::new(opened.map_err(io::Error::other)?);
    let summary = export_unsent(&engine, &identity, &exported, false).await;
    drop(engine);
    blocking(|| Engine::remove_state_copy(dir))?;
    summary.map_err(io::Error::other)?;
    fs::create_dir_all(&recovered)?;
    let decided = RejoinScope::read(dir, SCOPE_FILE)?;
    let decided = decided.filter(|scope| scope.region == identity.region_number);
    let scope = decided.unwrap_or_else(|| RejoinScope {
        region: identity.region_number,
        shards: Vec::new(),
    });
    scope.write(&recovered, &recovered_files::scope_file(node))?;
    let files = recovered_files::adopt(&exported, &recovered, node)?;
    remove_dir(&exported)?;
    sync(dir)?;
    Ok(files)
}

/// Moves the closed storage of the old node aside, and opens an empty one.
async fn set_old_state_aside(config: &Config, node: NodeId) -> Result<Arc<Engine>, StartError> {
    let dir = &config.data_dir;
    let moved = move_old_state(dir, &dir.join(BEFORE_DIR).join(node.to_string()));
    moved.map_err(failed("set the old state aside"))?;
    tracing::warn!(
        node = u64::from(node),
        to = BEFORE_DIR,
        "state of the old node set aside"
    );
    open_engine(config).await.map(Arc::new)
}

fn move_old_state(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    sync(&from.join(BEFORE_DIR))?;
    for entry in OLD_STATE {
        move_entry(from, to, entry)?;
    }
    sync(to)?;
    sync(from)?;
    RejoinScope::remove(from)?;
    move_entry(from, to, IDENTITY)?;
    sync(to)?;
    sync(from)
}

/// Moves an entry, if there is one. If it was moved before, what is there now is the empty one of a
/// start that was interrupted, and is removed.
fn move_entry(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    let (source, target) = (from.join(name), to.join(name));
    if !source.try_exists()? {
        return Ok(());
    }
    if !target.try_exists()? {
        return fs::rename(source, target);
    }
    if source.is_dir() {
        fs::remove_dir_all(source)
    } else {
        fs::remove_file(source)
    }
}

/// Removes a directory, if there is one.
fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "region_rejoin_tests.rs"]
mod tests;
