//! Backups that this node makes, one at a time.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::BackupError;
use super::format::{BackupStart, FORMAT};
use super::job::{BackupJob, BackupSource};
use super::progress::BackupLine;
use super::status::BackupStatus;
use super::target::BackupTarget;
use crate::cluster::LocalGroups;
use crate::service::Service;

/// Lines that may wait for the caller.
const MAX_QUEUED_LINES: usize = 4;

/// Backups of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Backups {
    source: BackupSource,
    node: Arc<str>,
    permit: Arc<Semaphore>,
    status: Arc<BackupStatus>,
    stop: CancellationToken,
}

/// A backup that is being made: it ends when this is dropped.
#[derive(Debug)]
pub struct BackupRun {
    lines: mpsc::Receiver<BackupLine>,
    _task: AbortOnDropHandle<()>,
}

/// Reason for which no backup is begun.
#[derive(Debug, thiserror::Error)]
pub enum BackupStartError {
    /// One is being made.
    #[error("this node is making a backup already: wait for its end")]
    Running,
    /// The target can't be used.
    #[error(transparent)]
    Target(BackupError),
}

impl Backups {
    /// Creates the backups of a node with these groups. They end at `stop`.
    pub(crate) fn new(service: &Service, groups: &LocalGroups, stop: CancellationToken) -> Self {
        let identity = &groups.identity;
        let start = BackupStart {
            format: FORMAT,
            id: String::new(),
            cluster_id: identity.cluster_id.clone(),
            region: identity.region.clone(),
            shards: identity.shards,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: String::new(),
        };
        Self {
            source: BackupSource {
                scans: service.scans.clone(),
                metadata: service.directory.metadata().clone(),
                catalog: groups.catalog.clone(),
                start,
            },
            node: Arc::from(identity.node_id.to_string()),
            permit: Arc::new(Semaphore::new(1)),
            status: Arc::default(),
            stop,
        }
    }

    /// Begins a backup at a URL, or goes on with the one that was interrupted there, unless it is
    /// to be a new one.
    pub(crate) fn start(&self, to: &str, is_new: bool) -> Result<BackupRun, BackupStartError> {
        let target = BackupTarget::open(to).map_err(BackupStartError::Target)?;
        let permit = self.permit.clone().try_acquire_owned();
        let permit = permit.map_err(|_| BackupStartError::Running)?;
        let (sender, lines) = mpsc::channel(MAX_QUEUED_LINES);
        let job = BackupJob {
            source: self.source.clone(),
            target,
            node: self.node.clone(),
            is_new,
            status: self.status.clone(),
            lines: sender,
            stop: self.stop.clone(),
            permit,
        };
        Ok(BackupRun {
            lines,
            _task: AbortOnDropHandle::new(tokio::spawn(job.run())),
        })
    }

    /// Counters of the backups.
    pub(crate) fn status(&self) -> &Arc<BackupStatus> {
        &self.status
    }
}

impl BackupRun {
    /// Returns the next line; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Option<BackupLine> {
        self.lines.recv().await
    }
}
