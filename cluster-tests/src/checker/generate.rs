//! Generates histories of a correct register whose clients observe it with a delay.

use super::model::{ABSENT, Needs, Op, Value};
use crate::rng::Rng;

/// Parameters of a generated history.
pub(super) struct Shape {
    pub clients: u64,
    pub ops: usize,
    /// Probability that an operation which writes has an unknown outcome, in permille.
    pub unknown: u64,
    /// Longest time between an operation's start and its effect, and from there to its end.
    pub lag: u64,
}

/// An operation with the instant at which it takes effect (`None`: never).
struct Planned {
    start: u64,
    happens: Option<u64>,
    end: u64,
    kind: Kind,
    unknown: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Delete,
    Create,
    /// Compares with the value written that many writes ago.
    Cas(usize),
}

/// Generates a linearizable history.
pub(super) fn history(rng: &mut Rng, shape: &Shape) -> Vec<Op> {
    let mut planned = plan(rng, shape);
    planned.sort_by_key(|op| op.happens.unwrap_or(op.start));
    let mut register = Register {
        state: ABSENT,
        written: vec![ABSENT],
    };
    let ops = planned.iter().filter_map(|op| register.run(op)).collect();
    let mut ops: Vec<Op> = ops;
    rng.shuffle(&mut ops);
    ops
}

fn plan(rng: &mut Rng, shape: &Shape) -> Vec<Planned> {
    let mut free_at = vec![0; usize::try_from(shape.clients).unwrap()];
    (0..shape.ops)
        .map(|_| {
            let client = rng.index(free_at.len());
            let start = free_at[client] + 1 + rng.within(0..shape.lag);
            let kind = match rng.within(0..10) {
                0..4 => Kind::Read,
                4..7 => Kind::Write,
                7 => Kind::Delete,
                8 => Kind::Create,
                _ => Kind::Cas(rng.index(3)),
            };
            let unknown = !matches!(kind, Kind::Read) && rng.permille(shape.unknown);
            let lag_factor = if unknown { 20 } else { 1 };
            let happens = start + rng.within(0..shape.lag * lag_factor);
            let end = happens + rng.within(0..shape.lag);
            free_at[client] = if unknown { start + shape.lag } else { end };
            let is_never = unknown && rng.permille(500);
            Planned {
                start,
                happens: (!is_never).then_some(happens),
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
    fn run(&mut self, op: &Planned) -> Option<Op> {
        let value = self.written.len() as Value;
        let (needs, sets) = match op.kind {
            Kind::Read => {
                return Some(Op::done(op.start, op.end, Needs::Is(self.state), None));
            }
            Kind::Write => (Needs::Any, value),
            Kind::Delete => (Needs::Any, ABSENT),
            Kind::Create => (Needs::Is(ABSENT), value),
            Kind::Cas(ago) => {
                let compared = self.written[self.written.len().saturating_sub(1 + ago)];
                (Needs::Is(compared), value)
            }
        };
        if sets != ABSENT {
            self.written.push(sets);
        }
        let is_met = needs.hold(self.state);
        if is_met && op.happens.is_some() {
            self.state = sets;
        }
        if op.unknown {
            return Some(Op::unknown(op.start, needs, sets));
        }
        let Needs::Is(compared) = needs else {
            return Some(Op::done(op.start, op.end, needs, Some(sets)));
        };
        Some(if is_met {
            Op::done(op.start, op.end, needs, Some(sets))
        } else {
            Op::done(op.start, op.end, Needs::Not(compared), None)
        })
    }
}

/// Changes the precondition or the times of one operation; the result may be linearizable or not.
pub(super) fn break_it(rng: &mut Rng, ops: &mut [Op]) {
    let values: Vec<Value> = ops.iter().filter_map(|op| op.sets).collect();
    let at = rng.index(ops.len());
    let value = values.get(rng.index(values.len())).copied();
    let value = value.unwrap_or(ABSENT);
    let op = &mut ops[at];
    match (op.needs, rng.index(3)) {
        (Needs::Is(_), 0 | 1) if op.sets != Some(value) => op.needs = Needs::Is(value),
        (Needs::Not(_), 0 | 1) => op.needs = Needs::Not(value),
        (Needs::Any | Needs::Is(_) | Needs::Not(_), _) => {
            op.start /= 2;
            op.end = op.end.map(|end| op.start + (end - op.start) / 4);
        }
    }
}
