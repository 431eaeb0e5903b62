//! A register with compare-and-set, and operations on it.
//!
//! The register holds a value with metadata, as a key does. A put replaces both, and a touch the
//! metadata alone.

use std::fmt;

/// Number of a write: each has another one, and leaves it in what it writes.
pub type WriteId = u64;

/// Content of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content {
    /// Number of the put that wrote the value; 0: the key doesn't exist.
    pub value: WriteId,
    /// Number of the write that wrote the metadata; 0: there is none.
    pub metadata: WriteId,
}

/// Content of a key that doesn't exist.
pub const ABSENT: Content = Content {
    value: 0,
    metadata: 0,
};

impl Content {
    /// Creates the content that a put without metadata writes.
    pub fn plain(put: WriteId) -> Self {
        Self {
            value: put,
            metadata: 0,
        }
    }

    /// Creates the content that a put with metadata writes.
    pub fn with_metadata(put: WriteId) -> Self {
        Self {
            value: put,
            metadata: put,
        }
    }

    /// Returns the content that a touch makes of this one.
    pub fn touched(self, touch: WriteId) -> Self {
        Self {
            metadata: touch,
            ..self
        }
    }

    /// Returns the number of the write that made this content; 0: there is none.
    pub fn write(self) -> WriteId {
        if self.metadata == 0 {
            self.value
        } else {
            self.metadata
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.metadata) {
            (0, _) => f.write_str("nothing"),
            (value, 0) => write!(f, "{value}"),
            (value, metadata) => write!(f, "{value} with metadata {metadata}"),
        }
    }
}

/// Condition on the register at the instant at which an operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// No condition: a plain write.
    Any,
    /// The register holds this: a read that returned it, or a condition that was met.
    Equals(Content),
    /// The register holds anything else: a condition that was not met, or, with [`ABSENT`], that of
    /// a touch, which needs a key.
    NotEqual(Content),
}

impl Precondition {
    /// Returns whether a register that holds `content` meets the condition.
    pub fn is_met_by(self, content: Content) -> bool {
        match self {
            Self::Any => true,
            Self::Equals(needed) => needed == content,
            Self::NotEqual(other) => other != content,
        }
    }
}

/// Effect of an operation on the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// None: a read, or a condition that was not met.
    Nothing,
    /// The register holds this.
    Put(Content),
    /// The register is empty.
    Delete,
    /// The register keeps its value, and gets this metadata.
    Touch(WriteId),
}

impl Effect {
    /// Returns the content of a register that held `content`.
    pub fn apply(self, content: Content) -> Content {
        match self {
            Self::Nothing => content,
            Self::Put(new) => new,
            Self::Delete => ABSENT,
            Self::Touch(_) if content == ABSENT => ABSENT,
            Self::Touch(metadata) => content.touched(metadata),
        }
    }

    /// Returns the number of a put or a touch.
    pub fn write(self) -> Option<WriteId> {
        match self {
            Self::Nothing | Self::Delete => None,
            Self::Put(content) => Some(content.write()),
            Self::Touch(metadata) => Some(metadata),
        }
    }
}

/// Position of an operation among those of one batch on the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPosition {
    /// Number of the batch.
    pub batch: u64,
    /// Number of the stage. A stage begins when those before have ended; one of unknown outcome may
    /// still take effect then. Reads with no write in between share a stage.
    pub stage: u32,
}

impl BatchPosition {
    /// Returns whether this is an earlier stage of the same batch.
    pub fn is_before(self, other: Self) -> bool {
        self.batch == other.batch && self.stage < other.stage
    }
}

/// An operation as its client observed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterOp {
    /// Start time.
    pub start: u64,
    /// End time. `None`: the outcome is unknown, and the operation may take effect at any time from
    /// its start on, or never. (One whose condition isn't met when it takes effect changes nothing,
    /// which is the same as never.)
    pub end: Option<u64>,
    /// Content that the operation read, or its condition.
    pub precondition: Precondition,
    /// Effect of the operation.
    pub effect: Effect,
    /// Position in a batch, if it was a part of one.
    pub batch: Option<BatchPosition>,
}

impl RegisterOp {
    /// Creates an operation that completed.
    pub fn completed(start: u64, end: u64, precondition: Precondition, effect: Effect) -> Self {
        Self {
            start,
            end: Some(end),
            precondition,
            effect,
            batch: None,
        }
    }

    /// Creates an operation with an unknown outcome.
    pub fn with_unknown_outcome(start: u64, precondition: Precondition, effect: Effect) -> Self {
        Self {
            start,
            end: None,
            precondition,
            effect,
            batch: None,
        }
    }

    /// Sets the position in a batch.
    pub fn in_batch(self, batch: Option<BatchPosition>) -> Self {
        Self { batch, ..self }
    }

    /// Returns whether the operation can only take effect after `other` has.
    pub fn follows(&self, other: &Self) -> bool {
        other.end.is_some()
            && other
                .batch
                .zip(self.batch)
                .is_some_and(|(earlier, later)| earlier.is_before(later))
    }
}
