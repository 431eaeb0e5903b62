//! Reasons for which a node can't start, or ends without a requested stop.

use std::io;
use std::path::PathBuf;

use cloudkv_common::fd_limit::FdLimitError;
use cloudkv_common::process::SystemError;
use cloudkv_common::server::BindError;

use crate::cluster::{IdentityError, JoinError};
use crate::rpc::TlsError;
use crate::store::keys::GroupId;
use crate::store::{LogDataLoss, OpenError};

/// Reason for which a node can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log lacks synced records.
    #[error("the log in data directory {} is damaged: {lost}. {advice}", .dir.display())]
    DamagedLog {
        /// The directory.
        dir: PathBuf,
        /// The missing part of the log.
        lost: LogDataLoss,
        /// Advice for the operator.
        advice: String,
    },
    /// What the disk returns of the log or the state isn't what was written.
    #[error("data directory {} holds damaged data: {damage}. {advice}", .dir.display())]
    DamagedData {
        /// The directory.
        dir: PathBuf,
        /// The failed action, and the damage that it met.
        damage: String,
        /// Advice for the operator.
        advice: String,
    },
    /// The data directory belongs to another node, region or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No cluster admits the node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The data directory is marked as unusable.
    #[error("data directory {} must not be used: {why}", .dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// The reason.
        why: String,
    },
    /// A Raft group can't be started.
    #[error("start group {group}")]
    Group {
        /// The group.
        group: GroupId,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A Raft group can't be recovered by force.
    #[error("recover group {group}")]
    Recover {
        /// The group.
        group: GroupId,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file that asks for a recovery can't be used.
    #[error("recovery.json in data directory {} can't be carried out: {why}", .dir.display())]
    RecoveryFile {
        /// The directory.
        dir: PathBuf,
        /// The reason.
        why: String,
    },
    /// The node can't be prepared for joining anew with its region.
    #[error("recover the region: {action}")]
    Rejoin {
        /// The failed action.
        action: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Reason for which a node ends without a requested stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] FdLimitError),
    /// The node's certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Ports can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another call to the system failed.
    #[error(transparent)]
    System(#[from] SystemError),
    /// A Raft group has failed: to go on could lose acknowledged writes.
    #[error("run the node: stopped by a failure: {0}")]
    Failed(String),
    /// An operator has confirmed a recovery by force, which the next start carries out.
    #[error("{0}")]
    RestartRequested(String),
}

impl RunError {
    /// Returns whether the node ended since a stop was requested before it had joined a cluster.
    pub fn is_requested_stop(&self) -> bool {
        matches!(self, Self::Start(StartError::Join(JoinError::Stopped)))
    }
}
