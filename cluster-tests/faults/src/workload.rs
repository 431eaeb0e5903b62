//! Workload of the recording clients: keys and operations.

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
