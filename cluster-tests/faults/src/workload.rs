//! Workload of the recording clients: keys and operations.

use super::call_record::Action;
use super::checker::Value;
use super::history::KeyName;
use cloudkv_test_harness::rng::Rng;

/// Number of keys that many clients use at once.
pub(super) const HOT_KEYS: u64 = 6;
/// Number of keys that are used now and then.
pub(super) const COLD_KEYS: u64 = 120;

/// Kind of a call, before the present value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Get,
    Put,
    Delete,
    Create,
    /// Reads, and writes if no write came in between.
    PutIfMatch,
    /// Reads, and deletes if no write came in between.
    DeleteIfMatch,
}

impl Intent {
    /// Returns the call, which writes `value` if it is a write; `None` if the present value must be
    /// read first.
    pub(super) fn action(self, value: Value) -> Option<Action> {
        match self {
            Self::Get => Some(Action::Get),
            Self::Put => Some(Action::Put(value)),
            Self::Delete => Some(Action::Delete),
            Self::Create => Some(Action::Create(value)),
            Self::PutIfMatch | Self::DeleteIfMatch => None,
        }
    }

    /// Returns the conditional call on a key whose present value is `was`.
    pub(super) fn conditional_action(self, was: Value, value: Value) -> Action {
        match self {
            Self::DeleteIfMatch => Action::DeleteIfMatch(was),
            _ => Action::PutIfMatch { was, value },
        }
    }
}

/// Returns the next call.
pub(super) fn next_call(rng: &mut Rng, generation: u64) -> (KeyName, Intent) {
    let number = if rng.chance_permille(500) {
        rng.range(0..HOT_KEYS)
    } else {
        HOT_KEYS + rng.range(0..COLD_KEYS)
    };
    let intent = match rng.range(0..100) {
        0..38 => Intent::Get,
        38..66 => Intent::Put,
        66..74 => Intent::Delete,
        74..84 => Intent::Create,
        84..96 => Intent::PutIfMatch,
        _ => Intent::DeleteIfMatch,
    };
    (KeyName { generation, number }, intent)
}
