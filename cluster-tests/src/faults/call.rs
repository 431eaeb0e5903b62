//! A recorded call on a key, and what it says to the checker.

use std::fmt;

use crate::checker::{ABSENT, Needs, Op, Value};

/// What a client asked for. Values are unique, and so a value names the version that it wrote.
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
        /// The value that must be there.
        was: Value,
        /// The one that replaces it.
        value: Value,
    },
    /// DELETE with `If-Match` and the ETag of this value.
    DeleteThat(Value),
}

impl Action {
    /// What must be there for it to happen, and what it then leaves behind.
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

    /// What it leaves behind if it happens; `None`: it changes nothing.
    pub fn writes(self) -> Option<Value> {
        self.effect().map(|(_, value)| value)
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read found this value, or [`ABSENT`].
    Found(Value),
    /// A write happened.
    Done,
    /// A condition didn't hold.
    Failed,
    /// It may have happened, or may still happen.
    Unknown,
    /// It did not happen, and won't.
    Nothing,
}

/// A call with its times, in nanoseconds since the run's start.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who called.
    pub client: u32,
    /// The seat of the node that was called.
    pub seat: usize,
    /// Just before the request was sent.
    pub start: u64,
    /// Just after the answer came, or was given up.
    pub end: u64,
    /// What was asked for.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
    /// The version of what was found or written.
    pub etag: Option<Box<str>>,
}

impl Record {
    /// What it says to the checker; `None`: nothing.
    pub fn op(&self) -> Option<Op> {
        let done = |needs, sets| Some(Op::done(self.start, self.end, needs, sets));
        match (self.outcome, self.action.effect()) {
            (Outcome::Found(value), None) => done(Needs::Is(value), None),
            (Outcome::Done, Some((needs, value))) => done(needs, Some(value)),
            (Outcome::Failed, Some((Needs::Is(was), _))) => done(Needs::Not(was), None),
            (Outcome::Unknown, Some((needs, value))) => Some(Op::unknown(self.start, needs, value)),
            // A read that failed changed nothing; and a client makes no other pairs.
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

    /// The value whose version `etag` is.
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

/// What records say to the checker, with the record that each came from.
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
    fn calls_say_what_they_saw() {
        let swap = Action::Swap { was: 3, value: 4 };
        let done = |needs, sets| Some(Op::done(5, 9, needs, sets));
        assert_eq!(op(Action::Get, Outcome::Found(3)), done(Needs::Is(3), None));
        assert_eq!(op(swap, Outcome::Done), done(Needs::Is(3), Some(4)));
        assert_eq!(op(swap, Outcome::Failed), done(Needs::Not(3), None));
        assert_eq!(
            op(Action::Create(4), Outcome::Failed),
            done(Needs::Not(0), None)
        );
        assert_eq!(
            op(Action::DeleteThat(3), Outcome::Unknown),
            Some(Op::unknown(5, Needs::Is(3), 0))
        );
        assert_eq!(op(Action::Get, Outcome::Unknown), None);
        assert_eq!(op(Action::Put(1), Outcome::Nothing), None);
    }
}
