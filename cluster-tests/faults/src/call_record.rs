//! A recorded call on a key, and its translation for the checker.

use std::fmt;

use crate::checker::{ABSENT, Precondition, RegisterOp, Value};

/// A request of a client. Values are unique, so a value identifies the version that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET.
    Get,
    /// PUT.
    Put(Value),
    /// DELETE.
    Delete,
    /// PUT with `If-None-Match: *`.
    Create(Value),
    /// PUT with `If-Match` and the ETag of `was`.
    PutIfMatch {
        /// Value that must be present.
        was: Value,
        /// Value that replaces it.
        value: Value,
    },
    /// DELETE with `If-Match` and the ETag of this value.
    DeleteIfMatch(Value),
}

impl Action {
    /// Returns the precondition of a write and the value that it leaves behind; `None` for a read.
    fn effect(self) -> Option<(Precondition, Value)> {
        match self {
            Self::Get => None,
            Self::Put(value) => Some((Precondition::Any, value)),
            Self::Delete => Some((Precondition::Any, ABSENT)),
            Self::Create(value) => Some((Precondition::Equals(ABSENT), value)),
            Self::PutIfMatch { was, value } => Some((Precondition::Equals(was), value)),
            Self::DeleteIfMatch(was) => Some((Precondition::Equals(was), ABSENT)),
        }
    }

    /// Returns the value that a write leaves behind; `None` for a read.
    pub fn written_value(self) -> Option<Value> {
        self.effect().map(|(_, value)| value)
    }
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The read returned this value, or [`ABSENT`].
    Read(Value),
    /// The write was acknowledged.
    Written,
    /// The condition was not met.
    ConditionFailed,
    /// The write may be done, or may be yet.
    Unknown,
    /// The write is not done, and won't be.
    NotDone,
}

/// A call with its times, in nanoseconds since the run's start.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// Number of the client.
    pub client: u32,
    /// Seat of the called node.
    pub seat: usize,
    /// Time just before the request was sent.
    pub start: u64,
    /// Time just after the response arrived, or the client gave up.
    pub end: u64,
    /// The request.
    pub action: Action,
    /// The outcome.
    pub outcome: Outcome,
    /// Version that was read or written.
    pub etag: Option<Box<str>>,
}

impl CallRecord {
    /// Translates the call for the checker; `None` if it shows nothing.
    pub fn to_register_op(&self) -> Option<RegisterOp> {
        let completed =
            |needs, sets| Some(RegisterOp::completed(self.start, self.end, needs, sets));
        match (self.outcome, self.action.effect()) {
            (Outcome::Read(value), None) => completed(Precondition::Equals(value), None),
            (Outcome::Written, Some((needs, value))) => completed(needs, Some(value)),
            (Outcome::ConditionFailed, Some((Precondition::Equals(was), _))) => {
                completed(Precondition::NotEqual(was), None)
            }
            (Outcome::Unknown, Some((needs, value))) => {
                Some(RegisterOp::with_unknown_outcome(self.start, needs, value))
            }
            // A failed read shows nothing; and a client makes no other pairs.
            (
                Outcome::Unknown
                | Outcome::NotDone
                | Outcome::Read(_)
                | Outcome::Written
                | Outcome::ConditionFailed,
                _,
            ) => None,
        }
    }

    /// Returns the value whose version `etag` is.
    pub fn value(&self) -> Option<Value> {
        match self.outcome {
            Outcome::Read(value) => Some(value),
            Outcome::Written => self.action.written_value(),
            Outcome::ConditionFailed | Outcome::Unknown | Outcome::NotDone => None,
        }
    }
}

impl fmt::Display for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        write!(
            f,
            "{:12.3} to {:12.3} ms  client {:3} at node {}  {:?} -> {:?}",
            millis(self.start),
            millis(self.end),
            self.client,
            self.seat,
            self.action,
            self.outcome
        )?;
        match &self.etag {
            Some(etag) => write!(f, "  {etag}"),
            None => Ok(()),
        }
    }
}

/// Translates records for the checker; returns the operations and the record's index of each.
pub fn to_register_ops(records: &[CallRecord]) -> (Vec<RegisterOp>, Vec<usize>) {
    let ops = records.iter().enumerate();
    ops.filter_map(|(index, record)| Some((record.to_register_op()?, index)))
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::{Action, CallRecord, Outcome};
    use crate::checker::{Precondition, RegisterOp};

    fn op(action: Action, outcome: Outcome) -> Option<RegisterOp> {
        let record = CallRecord {
            client: 1,
            seat: 0,
            start: 5,
            end: 9,
            action,
            outcome,
            etag: None,
        };
        record.to_register_op()
    }

    #[test]
    fn calls_translate_to_operations() {
        let replace = Action::PutIfMatch { was: 3, value: 4 };
        let completed = |needs, sets| Some(RegisterOp::completed(5, 9, needs, sets));
        assert_eq!(
            op(Action::Get, Outcome::Read(3)),
            completed(Precondition::Equals(3), None)
        );
        assert_eq!(
            op(replace, Outcome::Written),
            completed(Precondition::Equals(3), Some(4))
        );
        assert_eq!(
            op(replace, Outcome::ConditionFailed),
            completed(Precondition::NotEqual(3), None)
        );
        assert_eq!(
            op(Action::Create(4), Outcome::ConditionFailed),
            completed(Precondition::NotEqual(0), None)
        );
        assert_eq!(
            op(Action::DeleteIfMatch(3), Outcome::Unknown),
            Some(RegisterOp::with_unknown_outcome(
                5,
                Precondition::Equals(3),
                0
            ))
        );
        assert_eq!(op(Action::Get, Outcome::Unknown), None);
        assert_eq!(op(Action::Put(1), Outcome::NotDone), None);
    }
}
