//! A register with compare-and-set, and operations on it.

/// What a key holds: the number of a written value, or [`ABSENT`].
pub type Value = u64;

/// The key isn't there.
pub const ABSENT: Value = 0;

/// What an operation needs the register to hold when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Nothing: a plain write.
    Any,
    /// This: a read that found it, a condition that held.
    Is(Value),
    /// Anything else: a condition that failed.
    Not(Value),
}

impl Needs {
    /// Whether a register that holds `value` will do.
    pub fn hold(self, value: Value) -> bool {
        match self {
            Self::Any => true,
            Self::Is(needed) => needed == value,
            Self::Not(other) => other != value,
        }
    }
}

/// An operation, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// When it began.
    pub start: u64,
    /// When it ended. `None`: its fate is unknown, and it may happen at any time from its start
    /// on, or never. (One whose condition doesn't hold when it happens changes nothing, which is
    /// the same as never.)
    pub end: Option<u64>,
    /// What it found, or what its condition was.
    pub needs: Needs,
    /// What it leaves behind; `None`: what was there.
    pub sets: Option<Value>,
}

impl Op {
    /// An operation that ended.
    pub fn done(start: u64, end: u64, needs: Needs, sets: Option<Value>) -> Self {
        Self {
            start,
            end: Some(end),
            needs,
            sets,
        }
    }

    /// An operation of unknown fate.
    pub fn unknown(start: u64, needs: Needs, sets: Value) -> Self {
        Self {
            start,
            end: None,
            needs,
            sets: Some(sets),
        }
    }
}
