//! Generates histories of a correct register whose clients observe it with a delay.

use super::model::{ABSENT, Precondition, RegisterOp, Value};
use cloudkv_test_harness::rng::Rng;

/// Parameters of a generated history.
pub(super) struct HistoryShape {
    pub clients: u64,
    pub ops: usize,
    /// Probability that an operation which writes has an unknown outcome, in permille.
    pub unknown_permille: u64,
    /// Longest time between an operation's start and its effect, and from there to its end.
    pub max_lag: u64,
}

/// An operation with the instant at which it takes effect (`None`: never).
struct PlannedOp {
    start: u64,
    effect_at: Option<u64>,
    end: u64,
    kind: RegisterOpKind,
    unknown: bool,
}

#[derive(Clone, Copy)]
enum RegisterOpKind {
    Read,
    Write,
    Delete,
    Create,
    /// Compares with the value written that many writes ago.
    Cas(usize),
}

/// Generates a linearizable history.
pub(super) fn generate_history(rng: &mut Rng, shape: &HistoryShape) -> Vec<RegisterOp> {
    let mut planned = plan(rng, shape);
    planned.sort_by_key(|op| op.effect_at.unwrap_or(op.start));
    let mut register = Register {
        state: ABSENT,
        written: vec![ABSENT],
    };
    let ops = planned.iter().filter_map(|op| register.apply(op)).collect();
    let mut ops: Vec<RegisterOp> = ops;
    rng.shuffle(&mut ops);
    ops
}

fn plan(rng: &mut Rng, shape: &HistoryShape) -> Vec<PlannedOp> {
    let mut free_at = vec![0; usize::try_from(shape.clients).unwrap()];
    (0..shape.ops)
        .map(|_| {
            let client = rng.index(free_at.len());
            let start = free_at[client] + 1 + rng.range(0..shape.max_lag);
            let kind = match rng.range(0..10) {
                0..4 => RegisterOpKind::Read,
                4..7 => RegisterOpKind::Write,
                7 => RegisterOpKind::Delete,
                8 => RegisterOpKind::Create,
                _ => RegisterOpKind::Cas(rng.index(3)),
            };
            let unknown = !matches!(kind, RegisterOpKind::Read)
                && rng.chance_permille(shape.unknown_permille);
            let lag_factor = if unknown { 20 } else { 1 };
            let happens = start + rng.range(0..shape.max_lag * lag_factor);
            let end = happens + rng.range(0..shape.max_lag);
            free_at[client] = if unknown { start + shape.max_lag } else { end };
            let is_never = unknown && rng.chance_permille(500);
            PlannedOp {
                start,
                effect_at: (!is_never).then_some(happens),
                end,
                kind,
                unknown,
            }
        })
        .collect()
}

struct Register {
    state: Value,
    written: Vec<Value>,
}

impl Register {
    fn apply(&mut self, op: &PlannedOp) -> Option<RegisterOp> {
        let value = self.written.len() as Value;
        let (needs, sets) = match op.kind {
            RegisterOpKind::Read => {
                return Some(RegisterOp::completed(
                    op.start,
                    op.end,
                    Precondition::Equals(self.state),
                    None,
                ));
            }
            RegisterOpKind::Write => (Precondition::Any, value),
            RegisterOpKind::Delete => (Precondition::Any, ABSENT),
            RegisterOpKind::Create => (Precondition::Equals(ABSENT), value),
            RegisterOpKind::Cas(ago) => {
                let compared = self.written[self.written.len().saturating_sub(1 + ago)];
                (Precondition::Equals(compared), value)
            }
        };
        if sets != ABSENT {
            self.written.push(sets);
        }
        let is_met = needs.is_met_by(self.state);
        if is_met && op.effect_at.is_some() {
            self.state = sets;
        }
        if op.unknown {
            return Some(RegisterOp::with_unknown_outcome(op.start, needs, sets));
        }
        let Precondition::Equals(compared) = needs else {
            return Some(RegisterOp::completed(op.start, op.end, needs, Some(sets)));
        };
        Some(if is_met {
            RegisterOp::completed(op.start, op.end, needs, Some(sets))
        } else {
            RegisterOp::completed(op.start, op.end, Precondition::NotEqual(compared), None)
        })
    }
}

/// Changes the precondition or the times of one operation; the result may be linearizable or not.
pub(super) fn corrupt(rng: &mut Rng, ops: &mut [RegisterOp]) {
    let values: Vec<Value> = ops.iter().filter_map(|op| op.writes).collect();
    let at = rng.index(ops.len());
    let value = values.get(rng.index(values.len())).copied();
    let value = value.unwrap_or(ABSENT);
    let op = &mut ops[at];
    match (op.precondition, rng.index(3)) {
        (Precondition::Equals(_), 0 | 1) if op.writes != Some(value) => {
            op.precondition = Precondition::Equals(value)
        }
        (Precondition::NotEqual(_), 0 | 1) => op.precondition = Precondition::NotEqual(value),
        (Precondition::Any | Precondition::Equals(_) | Precondition::NotEqual(_), _) => {
            op.start /= 2;
            op.end = op.end.map(|end| op.start + (end - op.start) / 4);
        }
    }
}
