//! Operations of a batch, and their outcomes.

use bytes::Bytes;

use super::errors::KeyError;
use crate::types::{KeyWrite, Precondition, StoredValue, Version, WriteReceipt};

/// Operation of a batch.
#[derive(Clone, Debug)]
pub(crate) enum BatchOperation {
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
        /// Condition under which the value is returned.
        precondition: Precondition,
    },
    /// Writes a key.
    Write {
        /// The key.
        key: Bytes,
        /// The write.
        write: KeyWrite,
    },
}

impl BatchOperation {
    pub(super) fn key(&self) -> &Bytes {
        match self {
            Self::Get { key, .. } | Self::Write { key, .. } => key,
        }
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

/// Outcome of an operation of a batch.
#[derive(Debug)]
pub(crate) enum BatchOutcome {
    /// The write was done.
    Written(WriteReceipt),
    /// Live value of a key.
    Value(StoredValue),
    /// The key has a version that the reader has already.
    NotModified(Version),
    /// The key has another version than the reader requires.
    ConditionFailed(Version),
    /// The key was deleted or has expired; the version is the one that a reader has seen.
    Deleted(Version),
    /// The key is unknown.
    Missing,
    /// The value doesn't fit into the answer.
    TooLarge,
    /// Nothing was done: an earlier write of the key has an unknown outcome, and may come later.
    AfterUnknownOutcome,
    /// The operation failed.
    Failed(KeyError),
}

impl BatchOutcome {
    /// Version that the client sees by this outcome.
    pub(crate) fn seen_version(&self) -> Option<Version> {
        match self {
            Self::Written(receipt) => Some(receipt.version),
            Self::Value(value) => Some(value.version),
            Self::NotModified(version)
            | Self::ConditionFailed(version)
            | Self::Deleted(version) => Some(*version),
            Self::Missing | Self::TooLarge | Self::AfterUnknownOutcome | Self::Failed(_) => None,
        }
    }
}

/// Decision about a value that an answer would keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueAdmission {
    /// It is.
    Admitted,
    /// The answer would be too large.
    TooLarge,
    /// There is no memory for it now.
    Overloaded,
}

/// Bounds the values that an answer keeps in memory.
pub(crate) trait ValueBudget: Sync {
    /// Takes memory for the value of a key, and for what the answer says with it.
    fn admit(&self, key: &[u8], value: &StoredValue) -> ValueAdmission;
}
