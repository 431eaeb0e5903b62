//! Reasons for which a backup can't be made, read or restored.

use std::io;

use tokio::task::JoinError;

/// Error of making or reading a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The URL names no place for backups.
    #[error(
        "`{url}` names no place for backups: {why}; give file:///FOLDER (on the machine that \
         writes or reads it) or s3://BUCKET/FOLDER"
    )]
    BadUrl {
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A variable with credentials, or with the address of the store, can't be used.
    #[error(
        "use {url}: {variable} {why}. The process that writes or reads it (the node for `admin \
         backup`, else the command itself) has the credentials in its environment, as \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the store's address as AWS_ENDPOINT_URL"
    )]
    Credentials {
        /// URL of the place.
        url: String,
        /// Name of the variable.
        variable: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store refuses the credentials.
    #[error(
        "{action} {name}: access is refused; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and \
         AWS_REGION, and what that key may do"
    )]
    Refused {
        /// The failed action.
        action: &'static str,
        /// URL of the file or folder.
        name: String,
        /// The store's answer.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The store can't be read or written.
    #[error("{action} {name}")]
    Store {
        /// The failed action.
        action: &'static str,
        /// URL of the file or folder.
        name: String,
        /// The reason.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A file of a backup is missing.
    #[error("{name} is missing from the backup")]
    Missing {
        /// Name of the file within the backup.
        name: String,
    },
    /// A file of a backup isn't what was written.
    #[error("{name} of the backup is damaged: {why}")]
    Damaged {
        /// Name of the file within the backup.
        name: String,
        /// How that shows.
        why: String,
    },
    /// Another node writes the backup.
    #[error(
        "node {node} is making backup {id}: wait for its end, or {seconds} s if it was stopped, or \
         begin another one with --new"
    )]
    Busy {
        /// ID of the backup.
        id: String,
        /// The node.
        node: String,
        /// Time after which it counts as stopped, in seconds.
        seconds: u64,
    },
    /// No backup has the ID.
    #[error("{url} has no backup {id}: `cloudkv-node admin backups --at {url}` lists what it has")]
    Unknown {
        /// URL of the place.
        url: String,
        /// The ID.
        id: String,
    },
    /// The backup has no manifest.
    #[error(
        "backup {id} isn't complete: it is still being made, or was interrupted; the same \
         `cloudkv-node admin backup` goes on with it"
    )]
    Incomplete {
        /// ID of the backup.
        id: String,
    },
    /// The place has no complete backup.
    #[error("{url} has no complete backup: `cloudkv-node admin backups --at {url}` lists all")]
    NoBackup {
        /// URL of the place.
        url: String,
    },
    /// A later version has made the backup.
    #[error(
        "backup {id} was made by a later version of cloudkv-node (its format is {format}, and this \
         version reads {supported}): use that version"
    )]
    OtherFormat {
        /// ID of the backup.
        id: String,
        /// Its format.
        format: u32,
        /// The only format that this version reads.
        supported: u32,
    },
    /// A file of a backup can't be encoded.
    #[error("encode {name}")]
    Encode {
        /// Name of the file within the backup.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A task that reads or writes a part has failed.
    #[error("read or write a part of the backup")]
    Task(#[from] JoinError),
}

impl BackupError {
    /// Error of a store. `name` is the URL of the file or folder.
    pub(super) fn of_store(
        action: &'static str,
        name: String,
        source: object_store::Error,
    ) -> Self {
        let is_refused = match &source {
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => true,
            // Lists that are refused have no kind of their own.
            object_store::Error::Generic { source, .. } => {
                let text = source.to_string();
                ["403 Forbidden", "401 Unauthorized"]
                    .iter()
                    .any(|status| text.contains(status))
            }
            _ => false,
        };
        let source = Box::new(source);
        if is_refused {
            Self::Refused {
                action,
                name,
                source,
            }
        } else {
            Self::Store {
                action,
                name,
                source,
            }
        }
    }

    /// Returns whether the error is a property of the backup, so that the same call fails again.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }
}
