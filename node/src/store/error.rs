//! Error of all storage operations: the failed action, its subject, and the cause.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A failed storage operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{verb} {subject}")]
pub struct StoreError {
    /// Action that failed, such as `read`.
    pub verb: &'static str,
    /// Subject of the action, such as `applied position`.
    pub subject: &'static str,
    /// Underlying error.
    #[source]
    pub source: Cause,
}

/// Cause of a failed storage operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// RocksDB failed.
    #[error(transparent)]
    RocksDb(#[from] rocksdb::Error),
    /// A stored row doesn't decode.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    /// A stored row, or the log, violates an invariant.
    #[error("{0}")]
    Corrupt(&'static str),
    /// The disk returned something else than was written.
    #[error("{} is damaged at offset {offset}", .file.display())]
    Damaged {
        /// Path of the file.
        file: PathBuf,
        /// Offset of the damage in it, in bytes.
        offset: u64,
    },
    /// The log lacks records that were synced.
    #[error("{0}")]
    LogDataLoss(LogDataLoss),
    /// A file operation failed.
    #[error("{0}")]
    Io(std::sync::Arc<io::Error>),
}

impl StoreError {
    /// Returns a function for `map_err` that makes an error of `verb` on `subject`.
    pub fn on<E: Into<Cause>>(verb: &'static str, subject: &'static str) -> impl Fn(E) -> Self {
        move |source| Self {
            verb,
            subject,
            source: source.into(),
        }
    }

    /// Creates the error of stored data that violates an invariant.
    pub fn corrupt(subject: &'static str, rule: &'static str) -> Self {
        Self {
            verb: "read",
            subject,
            source: Cause::Corrupt(rule),
        }
    }

    /// Returns whether stored data is missing or damaged: reading again won't help.
    pub fn is_damage(&self) -> bool {
        match &self.source {
            Cause::RocksDb(error) => matches!(
                error.kind(),
                rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::IOError
            ),
            Cause::Decode(_)
            | Cause::Corrupt(_)
            | Cause::Damaged { .. }
            | Cause::LogDataLoss(_)
            | Cause::Io(_) => true,
        }
    }

    /// Returns whether the disk returned something else than was written.
    pub fn is_corruption(&self) -> bool {
        match &self.source {
            Cause::RocksDb(error) => error.kind() == rocksdb::ErrorKind::Corruption,
            Cause::Damaged { .. } | Cause::LogDataLoss(_) => true,
            Cause::Decode(_) | Cause::Corrupt(_) | Cause::Io(_) => false,
        }
    }

    /// Returns whether it is an error of the state's database.
    pub fn is_from_database(&self) -> bool {
        matches!(self.source, Cause::RocksDb(_))
    }

    /// Returns whether an I/O error wraps a storage error for which [`Self::is_damage`] holds.
    pub fn is_io_damage(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Self>());
        inner.is_some_and(Self::is_damage)
    }

    /// Returns whether an I/O error wraps a storage error for which [`Self::is_corruption`] holds.
    pub fn is_io_corruption(error: &io::Error) -> bool {
        let inner = error.get_ref().and_then(|it| it.downcast_ref::<Self>());
        inner.is_some_and(Self::is_corruption)
    }

    /// Creates the error of a log that lacks synced records.
    pub fn log_data_loss(loss: LogDataLoss) -> Self {
        Self {
            verb: "read",
            subject: "log",
            source: Cause::LogDataLoss(loss),
        }
    }

    /// Creates the error of a damaged file.
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

/// Loss of synced records of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDataLoss {
    /// Part of the log that is damaged.
    pub extent: LossExtent,
    /// File and offset at which the readable records end, if any are left.
    pub end: Option<(PathBuf, u64)>,
}

/// Part of the log that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossExtent {
    /// Only the block that was written last: a torn write can cause that.
    TornTail {
        /// Number of bytes synced after the last readable record.
        bytes: u64,
    },
    /// Records of the last file, further back.
    LastFile {
        /// Number of bytes synced after the last readable record.
        bytes: u64,
    },
    /// A file before the last one, or a whole file.
    OlderFile,
}

impl LossExtent {
    /// Returns whether only the end of the log is missing, so that it can be read up to the damage.
    pub fn is_at_end(self) -> bool {
        !matches!(self, Self::OlderFile)
    }
}

impl fmt::Display for LogDataLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extent {
            LossExtent::TornTail { bytes } => write!(
                f,
                "its last block is damaged, as a write that a power failure has cut off can leave \
                 it: the last {bytes} bytes of records that were on disk are missing"
            )?,
            LossExtent::LastFile { bytes } => write!(
                f,
                "records that were on disk long before it ended are damaged, which no power \
                 failure explains: with them, {bytes} bytes are missing"
            )?,
            LossExtent::OlderFile => write!(
                f,
                "a file of it is damaged or missing that was on disk long before it ended, which \
                 no power failure explains"
            )?,
        }
        match &self.end {
            Some((file, offset)) => write!(f, " (from offset {offset} of {})", file.display()),
            None => Ok(()),
        }
    }
}
