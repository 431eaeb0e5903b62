//! The error of every storage operation: what was done to what, and what RocksDB said.

use std::io;

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
