//! Workload of the recording clients: keys and operations.

use super::ledger::KeyName;
use crate::rng::Rng;

/// Number of keys that many clients use at once.
pub(super) const HOT: u64 = 6;
/// Number of keys that are used now and then.
pub(super) const COLD: u64 = 120;

/// Kind of a call, before the present value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Get,
    Put,
    Delete,
    Create,
    /// Reads, and writes if no write came in between.
    Swap,
    /// Reads, and deletes if no write came in between.
    DeleteThat,
}

/// Returns the next call.
pub(super) fn next(rng: &mut Rng, generation: u64) -> (KeyName, Intent) {
    let number = if rng.permille(500) {
        rng.within(0..HOT)
    } else {
        HOT + rng.within(0..COLD)
    };
    let intent = match rng.within(0..100) {
        0..38 => Intent::Get,
        38..66 => Intent::Put,
        66..74 => Intent::Delete,
        74..84 => Intent::Create,
        84..96 => Intent::Swap,
        _ => Intent::DeleteThat,
    };
    (KeyName { generation, number }, intent)
}
