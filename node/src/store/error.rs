//! The error of every storage operation: what was done to what, and what RocksDB said.

use std::io;
use std::path::PathBuf;

use super::log::Lost;

/// A failed storage operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{verb} {subject}")]
pub struct StoreError {
    /// What was tried, such as `read`.
    pub verb: &'static str,
    /// What it was tried on, such as `applied position`.
    pub subject: &'static str,
    /// What RocksDB, or the decoder, said.
    #[source]
    pub source: Cause,
}

/// Why a storage operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// RocksDB refused.
    #[error(transparent)]
    RocksDb(#[from] rocksdb::Error),
    /// A stored row doesn't decode.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    /// A stored row breaks a rule.
    #[error("{0}")]
    Corrupt(&'static str),
    /// The disk has changed what was written.
    #[error("{} is damaged at offset {offset}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
    },
    /// The log lacks what was synced.
    #[error("{0}")]
    LogLost(Lost),
    /// A file operation failed.
    #[error("{0}")]
    Io(std::sync::Arc<io::Error>),
}

impl StoreError {
    /// An error of `verb` on `subject`, to be used in `map_err`.
    pub fn on<E: Into<Cause>>(verb: &'static str, subject: &'static str) -> impl Fn(E) -> Self {
        move |source| Self {
            verb,
            subject,
            source: source.into(),
        }
    }

    /// A row that breaks a rule.
    pub fn corrupt(subject: &'static str, rule: &'static str) -> Self {
        Self {
            verb: "read",
            subject,
            source: Cause::Corrupt(rule),
        }
    }

    /// Whether it tells that what was written isn't there, or not as it was: reading again won't
    /// help.
    pub fn is_damage(&self) -> bool {
        match &self.source {
            Cause::RocksDb(error) => matches!(
                error.kind(),
                rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::IOError
            ),
            Cause::Decode(_)
            | Cause::Corrupt(_)
            | Cause::Damaged { .. }
            | Cause::LogLost(_)
            | Cause::Io(_) => true,
        }
    }

    /// Whether the state's database has met it.
    pub fn is_of_database(&self) -> bool {
        matches!(self.source, Cause::RocksDb(_))
    }

    /// Whether an error is one of the storage that tells of damage.
    pub fn tells_damage(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Self>());
        inner.is_some_and(Self::is_damage)
    }

    /// A log that lacks what was synced.
    pub fn log_lost(lost: Lost) -> Self {
        Self {
            verb: "read",
            subject: "log",
            source: Cause::LogLost(lost),
        }
    }

    /// A file that the disk has changed.
    pub fn damaged(subject: &'static str, file: PathBuf, offset: u64) -> Self {
        Self {
            verb: "read",
            subject,
            source: Cause::Damaged { file, offset },
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Io(std::sync::Arc::new(error))
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
