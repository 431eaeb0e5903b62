//! A register with compare-and-set, and operations on it.

/// Content of a key: the number of a written value, or [`ABSENT`].
pub type Value = u64;

/// Marks a key that doesn't exist.
pub const ABSENT: Value = 0;

/// Condition on the register at the instant at which an operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// No condition: a plain write.
    Any,
    /// The register holds this value: a read that returned it, or a condition that was met.
    Is(Value),
    /// The register holds any other value: a condition that was not met.
    Not(Value),
}

impl Needs {
    /// Returns whether a register that holds `value` meets the condition.
    pub fn hold(self, value: Value) -> bool {
        match self {
            Self::Any => true,
            Self::Is(needed) => needed == value,
            Self::Not(other) => other != value,
        }
    }
}

/// An operation as its client observed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Start time.
    pub start: u64,
    /// End time. `None`: the outcome is unknown, and the operation may take effect at any time from
    /// its start on, or never. (One whose condition isn't met when it takes effect changes nothing,
    /// which is the same as never.)
    pub end: Option<u64>,
    /// Value that the operation read, or its condition.
    pub needs: Needs,
    /// Value that the operation writes; `None`: it changes nothing.
    pub sets: Option<Value>,
}

impl Op {
    /// Creates an operation that completed.
    pub fn done(start: u64, end: u64, needs: Needs, sets: Option<Value>) -> Self {
        Self {
            start,
            end: Some(end),
            needs,
            sets,
        }
    }

    /// Creates an operation with an unknown outcome.
    pub fn unknown(start: u64, needs: Needs, sets: Value) -> Self {
        Self {
            start,
            end: None,
            needs,
            sets: Some(sets),
        }
    }
}
