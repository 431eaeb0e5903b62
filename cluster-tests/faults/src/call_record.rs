//! A recorded call on a key, and its translation for the checker.

use std::fmt;

use crate::checker::{ABSENT, BatchPosition, Content, Effect, Precondition, RegisterOp, WriteId};

/// A request of a client, or an operation of a batch. Each write has a number of its own, so a
/// content identifies the writes that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET.
    Get,
    /// PUT.
    Put(Content),
    /// DELETE.
    Delete,
    /// PUT with `If-None-Match: *`.
    Create(Content),
    /// PUT with `If-Match` and the ETag of `was`.
    PutIfMatch {
        /// Content that must be present.
        was: Content,
        /// Content that replaces it.
        content: Content,
    },
    /// DELETE with `If-Match` and the ETag of this content.
    DeleteIfMatch(Content),
    /// PATCH with this metadata.
    Touch(WriteId),
    /// PATCH with this metadata, `If-Match` and the ETag of `was`.
    TouchIfMatch {
        /// Content that must be present.
        was: Content,
        /// Metadata that it gets.
        metadata: WriteId,
    },
}

impl Action {
    /// Returns the condition under which a write is done. A read has none.
    pub fn precondition(self) -> Precondition {
        match self {
            Self::Get | Self::Put(_) | Self::Delete => Precondition::Any,
            Self::Create(_) => Precondition::Equals(ABSENT),
            Self::Touch(_) => Precondition::NotEqual(ABSENT),
            Self::PutIfMatch { was, .. }
            | Self::DeleteIfMatch(was)
            | Self::TouchIfMatch { was, .. } => Precondition::Equals(was),
        }
    }

    /// Returns the effect of a write that is done; that of a read is nothing.
    pub fn effect(self) -> Effect {
        match self {
            Self::Get => Effect::Nothing,
            Self::Put(content) | Self::Create(content) | Self::PutIfMatch { content, .. } => {
                Effect::Put(content)
            }
            Self::Delete | Self::DeleteIfMatch(_) => Effect::Delete,
            Self::Touch(metadata) | Self::TouchIfMatch { metadata, .. } => Effect::Touch(metadata),
        }
    }

    /// Returns whether the request has a condition, which its answer may say was not met.
    pub fn is_conditional(self) -> bool {
        matches!(self.precondition(), Precondition::Equals(_))
    }

    /// Returns the content that a write leaves behind; `None` for a read, and for a touch of
    /// whatever is there.
    pub fn written_content(self) -> Option<Content> {
        match (self.effect(), self.precondition()) {
            (Effect::Put(content), _) => Some(content),
            (Effect::Delete, _) => Some(ABSENT),
            (Effect::Touch(metadata), Precondition::Equals(was)) => Some(was.touched(metadata)),
            (Effect::Nothing | Effect::Touch(_), _) => None,
        }
    }
}

/// Outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The read returned this content, or [`ABSENT`].
    Read(Content),
    /// The write was acknowledged.
    Written,
    /// The condition was not met.
    ConditionFailed,
    /// The touch found no key.
    NotFound,
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
    /// Position in a batch, if the call was a part of one.
    pub batch: Option<BatchPosition>,
}

impl CallRecord {
    /// Translates the call for the checker; `None` if it shows nothing.
    pub fn to_register_op(&self) -> Option<RegisterOp> {
        let completed = |needs, effect| {
            let completed = RegisterOp::completed(self.start, self.end, needs, effect);
            Some(completed.in_batch(self.batch))
        };
        let (needs, effect) = (self.action.precondition(), self.action.effect());
        match (self.outcome, effect, needs) {
            (Outcome::Read(content), Effect::Nothing, _) => {
                completed(Precondition::Equals(content), Effect::Nothing)
            }
            // A failed read shows nothing.
            (_, Effect::Nothing, _) => None,
            (Outcome::Written, ..) => completed(needs, effect),
            (Outcome::ConditionFailed, _, Precondition::Equals(was)) => {
                completed(Precondition::NotEqual(was), Effect::Nothing)
            }
            (Outcome::NotFound, ..) => completed(Precondition::Equals(ABSENT), Effect::Nothing),
            (Outcome::Unknown, ..) => {
                let unknown = RegisterOp::with_unknown_outcome(self.start, needs, effect);
                Some(unknown.in_batch(self.batch))
            }
            // A client makes no other combination.
            (Outcome::NotDone | Outcome::Read(_) | Outcome::ConditionFailed, ..) => None,
        }
    }

    /// Returns the content whose version `etag` is, if it is known.
    pub fn content(&self) -> Option<Content> {
        match self.outcome {
            Outcome::Read(content) => Some(content),
            Outcome::Written => self.action.written_content(),
            Outcome::ConditionFailed | Outcome::NotFound | Outcome::Unknown | Outcome::NotDone => {
                None
            }
        }
    }

    /// Returns the number of the write whose version `etag` is, if it is known.
    pub fn observed_write(&self) -> Option<WriteId> {
        match self.outcome {
            Outcome::Read(content) => (content != ABSENT).then(|| content.write()),
            Outcome::Written => self.action.effect().write(),
            Outcome::ConditionFailed | Outcome::NotFound | Outcome::Unknown | Outcome::NotDone => {
                None
            }
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
        if let Some(etag) = &self.etag {
            write!(f, "  {etag}")?;
        }
        match self.batch {
            Some(BatchPosition { batch, stage }) => write!(f, "  batch {batch}, stage {stage}"),
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
    use super::*;

    const POSITION: BatchPosition = BatchPosition { batch: 2, stage: 1 };

    fn op(action: Action, outcome: Outcome) -> Option<RegisterOp> {
        let record = CallRecord {
            client: 1,
            seat: 0,
            start: 5,
            end: 9,
            action,
            outcome,
            etag: None,
            batch: Some(POSITION),
        };
        record.to_register_op()
    }

    fn completed(needs: Precondition, effect: Effect) -> Option<RegisterOp> {
        let completed = RegisterOp::completed(5, 9, needs, effect);
        Some(completed.in_batch(Some(POSITION)))
    }

    #[test]
    fn calls_translate_to_operations() {
        let (was, content) = (Content::plain(3), Content::with_metadata(4));
        let replace = Action::PutIfMatch { was, content };
        assert_eq!(
            op(Action::Get, Outcome::Read(was)),
            completed(Precondition::Equals(was), Effect::Nothing)
        );
        assert_eq!(
            op(replace, Outcome::Written),
            completed(Precondition::Equals(was), Effect::Put(content))
        );
        assert_eq!(
            op(replace, Outcome::ConditionFailed),
            completed(Precondition::NotEqual(was), Effect::Nothing)
        );
        assert_eq!(
            op(Action::Create(content), Outcome::ConditionFailed),
            completed(Precondition::NotEqual(ABSENT), Effect::Nothing)
        );
        let unknown =
            RegisterOp::with_unknown_outcome(5, Precondition::Equals(was), Effect::Delete);
        assert_eq!(
            op(Action::DeleteIfMatch(was), Outcome::Unknown),
            Some(unknown.in_batch(Some(POSITION)))
        );
        assert_eq!(op(Action::Get, Outcome::Unknown), None);
        assert_eq!(op(Action::Put(content), Outcome::NotDone), None);
    }

    #[test]
    fn touches_translate_to_operations() {
        let was = Content::plain(3);
        let touch = Action::Touch(7);
        assert_eq!(
            op(touch, Outcome::Written),
            completed(Precondition::NotEqual(ABSENT), Effect::Touch(7))
        );
        assert_eq!(touch.written_content(), None);
        let conditional = Action::TouchIfMatch { was, metadata: 7 };
        assert_eq!(
            op(conditional, Outcome::Written),
            completed(Precondition::Equals(was), Effect::Touch(7))
        );
        assert_eq!(conditional.written_content(), Some(was.touched(7)));
        for action in [touch, conditional] {
            assert_eq!(
                op(action, Outcome::NotFound),
                completed(Precondition::Equals(ABSENT), Effect::Nothing)
            );
        }
        assert!(conditional.is_conditional() && !touch.is_conditional());
    }
}
