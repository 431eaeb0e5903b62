//! A register with compare-and-set, and operations on it.

/// Content of a key: the number of a written value, or [`ABSENT`].
pub type Value = u64;

/// Marks a key that doesn't exist.
pub const ABSENT: Value = 0;

/// Condition on the register at the instant at which an operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// No condition: a plain write.
    Any,
    /// The register holds this value: a read that returned it, or a condition that was met.
    Equals(Value),
    /// The register holds any other value: a condition that was not met.
    NotEqual(Value),
}

impl Precondition {
    /// Returns whether a register that holds `value` meets the condition.
    pub fn is_met_by(self, value: Value) -> bool {
        match self {
            Self::Any => true,
            Self::Equals(needed) => needed == value,
            Self::NotEqual(other) => other != value,
        }
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
    /// Value that the operation read, or its condition.
    pub precondition: Precondition,
    /// Value that the operation writes; `None`: it changes nothing.
    pub writes: Option<Value>,
}

impl RegisterOp {
    /// Creates an operation that completed.
    pub fn completed(
        start: u64,
        end: u64,
        precondition: Precondition,
        writes: Option<Value>,
    ) -> Self {
        Self {
            start,
            end: Some(end),
            precondition,
            writes,
        }
    }

    /// Creates an operation with an unknown outcome.
    pub fn with_unknown_outcome(start: u64, precondition: Precondition, sets: Value) -> Self {
        Self {
            start,
            end: None,
            precondition,
            writes: Some(sets),
        }
    }
}
