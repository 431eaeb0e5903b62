//! All orders, one after the other: slow, and plain enough to be believed.

use super::model::{ABSENT, Op, Value};

/// Whether some order of some of the operations is right.
pub(super) fn linearizable(ops: &[Op]) -> bool {
    extend(ops, &mut vec![false; ops.len()], ABSENT)
}

fn extend(ops: &[Op], placed: &mut [bool], state: Value) -> bool {
    let left = |index: &usize| !placed[*index];
    let known_left = (0..ops.len())
        .filter(left)
        .filter(|i| ops[*i].end.is_some());
    let Some(first_end) = known_left.filter_map(|i| ops[i].end).min() else {
        return true;
    };
    for index in 0..ops.len() {
        let op = &ops[index];
        if placed[index] || op.start > first_end || !op.needs.hold(state) {
            continue;
        }
        placed[index] = true;
        let found = extend(ops, placed, op.sets.unwrap_or(state));
        placed[index] = false;
        if found {
            return true;
        }
    }
    false
}
