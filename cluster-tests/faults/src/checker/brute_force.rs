//! Brute-force checker: tries all orders, one after the other. Slow, and simple enough to trust.

use super::model::{ABSENT, Content, RegisterOp};

/// Returns whether some order of all completed operations, and of any of the others, is correct.
pub(super) fn is_linearizable(ops: &[RegisterOp]) -> bool {
    extend_order(ops, &mut vec![false; ops.len()], ABSENT)
}

fn extend_order(ops: &[RegisterOp], placed: &mut [bool], state: Content) -> bool {
    let is_left = |index: &usize| !placed[*index];
    let completed_left = (0..ops.len())
        .filter(is_left)
        .filter(|i| ops[*i].end.is_some());
    let Some(first_end) = completed_left.filter_map(|i| ops[i].end).min() else {
        return true;
    };
    for index in 0..ops.len() {
        let op = &ops[index];
        if placed[index] || op.start > first_end || !op.precondition.is_met_by(state) {
            continue;
        }
        if (0..ops.len()).any(|other| !placed[other] && op.follows(&ops[other])) {
            continue;
        }
        placed[index] = true;
        let is_possible = extend_order(ops, placed, op.effect.apply(state));
        placed[index] = false;
        if is_possible {
            return true;
        }
    }
    false
}
