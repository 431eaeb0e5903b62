//! A recorded call on a key, and its translation for the checker.

use std::fmt;

use crate::checker::{ABSENT, Needs, Op, Value};

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
    Swap {
        /// Value that must be present.
        was: Value,
        /// Value that replaces it.
        value: Value,
    },
    /// DELETE with `If-Match` and the ETag of this value.
    DeleteThat(Value),
}

impl Action {
    /// Returns the precondition of a write and the value that it leaves behind; `None` for a read.
    fn effect(self) -> Option<(Needs, Value)> {
        match self {
            Self::Get => None,
            Self::Put(value) => Some((Needs::Any, value)),
            Self::Delete => Some((Needs::Any, ABSENT)),
            Self::Create(value) => Some((Needs::Is(ABSENT), value)),
            Self::Swap { was, value } => Some((Needs::Is(was), value)),
            Self::DeleteThat(was) => Some((Needs::Is(was), ABSENT)),
        }
    }

    /// Returns the value that a write leaves behind; `None` for a read.
    pub fn writes(self) -> Option<Value> {
        self.effect().map(|(_, value)| value)
    }
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The read returned this value, or [`ABSENT`].
    Found(Value),
    /// The write was acknowledged.
    Done,
    /// The condition was not met.
    Failed,
    /// The write may be done, or may be yet.
    Unknown,
    /// The write is not done, and won't be.
    Nothing,
}

/// A call with its times, in nanoseconds since the run's start.
#[derive(Clone, Debug)]
pub struct Record {
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

impl Record {
    /// Translates the call for the checker; `None` if it shows nothing.
    pub fn op(&self) -> Option<Op> {
        let completed = |needs, sets| Some(Op::done(self.start, self.end, needs, sets));
        match (self.outcome, self.action.effect()) {
            (Outcome::Found(value), None) => completed(Needs::Is(value), None),
            (Outcome::Done, Some((needs, value))) => completed(needs, Some(value)),
            (Outcome::Failed, Some((Needs::Is(was), _))) => completed(Needs::Not(was), None),
            (Outcome::Unknown, Some((needs, value))) => Some(Op::unknown(self.start, needs, value)),
            // A failed read shows nothing; and a client makes no other pairs.
            (
                Outcome::Unknown
                | Outcome::Nothing
                | Outcome::Found(_)
                | Outcome::Done
                | Outcome::Failed,
                _,
            ) => None,
        }
    }

    /// Returns the value whose version `etag` is.
    pub fn value(&self) -> Option<Value> {
        match self.outcome {
            Outcome::Found(value) => Some(value),
            Outcome::Done => self.action.writes(),
            Outcome::Failed | Outcome::Unknown | Outcome::Nothing => None,
        }
    }
}

impl fmt::Display for Record {
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
pub fn to_ops(records: &[Record]) -> (Vec<Op>, Vec<usize>) {
    let ops = records.iter().enumerate();
    ops.filter_map(|(index, record)| Some((record.op()?, index)))
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::{Action, Outcome, Record};
    use crate::checker::{Needs, Op};

    fn op(action: Action, outcome: Outcome) -> Option<Op> {
        let record = Record {
            client: 1,
            seat: 0,
            start: 5,
            end: 9,
            action,
            outcome,
            etag: None,
        };
        record.op()
    }

    #[test]
    fn calls_translate_to_operations() {
        let replace = Action::Swap { was: 3, value: 4 };
        let completed = |needs, sets| Some(Op::done(5, 9, needs, sets));
        assert_eq!(op(Action::Get, Outcome::Found(3)), completed(Needs::Is(3), None));
        assert_eq!(op(replace, Outcome::Done), completed(Needs::Is(3), Some(4)));
        assert_eq!(op(replace, Outcome::Failed), completed(Needs::Not(3), None));
        assert_eq!(
            op(Action::Create(4), Outcome::Failed),
            completed(Needs::Not(0), None)
        );
        assert_eq!(
            op(Action::DeleteThat(3), Outcome::Unknown),
            Some(Op::unknown(5, Needs::Is(3), 0))
        );
        assert_eq!(op(Action::Get, Outcome::Unknown), None);
        assert_eq!(op(Action::Put(1), Outcome::Nothing), None);
    }
}
