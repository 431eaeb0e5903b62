//! Histories of a register that is right, with clients that see it late.

use super::model::{ABSENT, Needs, Op, Value};
use crate::rng::Rng;

/// What a history is made of.
pub(super) struct Shape {
    pub clients: u64,
    pub ops: usize,
    /// Of 1000 operations that change something, how many have an unknown fate.
    pub unknown: u64,
    /// The longest time between an operation's start and its effect, and from there to its end.
    pub lag: u64,
}

/// One operation, with the instant at which it happens (`None`: never).
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
    /// Compares with the value that was written so many writes ago.
    Cas(usize),
}

/// A history that is linearizable.
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
            let late = if unknown { 20 } else { 1 };
            let happens = start + rng.within(0..shape.lag * late);
            let end = happens + rng.within(0..shape.lag);
            free_at[client] = if unknown { start + shape.lag } else { end };
            let never = unknown && rng.permille(500);
            Planned {
                start,
                happens: (!never).then_some(happens),
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
        let holds = needs.hold(self.state);
        if holds && op.happens.is_some() {
            self.state = sets;
        }
        if op.unknown {
            return Some(Op::unknown(op.start, needs, sets));
        }
        let Needs::Is(compared) = needs else {
            return Some(Op::done(op.start, op.end, needs, Some(sets)));
        };
        Some(if holds {
            Op::done(op.start, op.end, needs, Some(sets))
        } else {
            Op::done(op.start, op.end, Needs::Not(compared), None)
        })
    }
}

/// Changes what one operation saw, or when; the result may be right or wrong.
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
