//! Reasons for which a backup can't be restored.

use std::io;
use std::path::PathBuf;

use crate::backup::BackupError;
use crate::cluster::IdentityError;
use crate::meta;
use crate::store::OpenError;
use crate::store::keys::GroupId;

/// Error of restoring a backup.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup can't be read, or isn't intact.
    #[error("restore the backup")]
    Backup(#[from] BackupError),
    /// A later version has made the backup.
    #[error(
        "backup {id} has metadata of feature level {level}, and this version of cloudkv-node knows \
         none above {}: use a later version",
        meta::MAX_FEATURE_LEVEL
    )]
    LaterLevel {
        /// ID of the backup.
        id: String,
        /// Feature level of its metadata.
        level: u32,
    },
    /// The number of shards can't be used.
    #[error("--shards is 0: give a number from 1 on, or leave it out for that of the backup")]
    NoShards,
    /// The data directory holds something.
    #[error(
        "data directory {} isn't empty: a backup is restored into a new one, and never into that \
         of a cluster that exists; give --data-dir a directory that is empty or doesn't exist",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// The data directory can't be read or written.
    #[error("{verb} data directory {}", .dir.display())]
    Directory {
        /// The failed action.
        verb: &'static str,
        /// The directory.
        dir: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The storage can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The identity of the new node can't be stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A group can't be written.
    #[error("restore {group}")]
    Group {
        /// The group.
        group: GroupId,
        /// The reason.
        #[source]
        source: io::Error,
    },
}
