//! Generates histories of a correct register whose clients observe it with a delay.

use super::model::{ABSENT, BatchPosition, Content, Effect, Precondition, RegisterOp, WriteId};
use cloudkv_test_harness::rng::Rng;

/// Maximum number of operations in a batch.
const MAX_BATCH_OPS: u64 = 4;

/// Parameters of a generated history.
pub(super) struct HistoryShape {
    pub clients: u64,
    pub ops: usize,
    /// Probability that an operation which writes has an unknown outcome, in permille.
    pub unknown_permille: u64,
    /// Probability that a client sends a batch instead of one operation, in permille.
    pub batch_permille: u64,
    /// Longest time between an operation's start and its effect, and from there to its end.
    pub max_lag: u64,
}

/// An operation with the instant at which it takes effect (`None`: never).
#[derive(Clone, Copy)]
struct PlannedOp {
    start: u64,
    effect_at: Option<u64>,
    end: u64,
    kind: RegisterOpKind,
    unknown: bool,
    batch: Option<BatchPosition>,
}

#[derive(Clone, Copy)]
enum RegisterOpKind {
    Read,
    Write,
    Delete,
    Create,
    /// Compares with the content that many writes ago.
    Cas(usize),
    Touch,
    /// A touch that compares, too.
    TouchIf(usize),
}

/// Generates a linearizable history.
pub(super) fn generate_history(rng: &mut Rng, shape: &HistoryShape) -> Vec<RegisterOp> {
    let mut planned = plan(rng, shape);
    planned.sort_by_key(|op| op.effect_at.unwrap_or(op.start));
    let mut register = Register {
        state: ABSENT,
        contents: vec![ABSENT],
        last_write: 0,
    };
    let ops = planned.iter().filter_map(|op| register.apply(op)).collect();
    let mut ops: Vec<RegisterOp> = ops;
    rng.shuffle(&mut ops);
    ops
}

fn plan(rng: &mut Rng, shape: &HistoryShape) -> Vec<PlannedOp> {
    let mut free_at = vec![0; usize::try_from(shape.clients).unwrap()];
    let mut planned: Vec<PlannedOp> = vec![];
    while planned.len() < shape.ops {
        let client = rng.index(free_at.len());
        let start = free_at[client] + 1 + rng.range(0..shape.max_lag);
        let is_batch = rng.chance_permille(shape.batch_permille);
        let number = planned.len() as u64;
        let count = if is_batch {
            2 + rng.index(usize::try_from(MAX_BATCH_OPS - 1).unwrap())
        } else {
            1
        };
        let mut ops = plan_ops(rng, shape, start, count.min(shape.ops - planned.len()));
        if is_batch {
            set_stages(&mut ops, number);
        }
        free_at[client] = match ops.as_slice() {
            [op] if op.unknown => start + shape.max_lag,
            _ => ops[0].end,
        };
        planned.append(&mut ops);
    }
    planned
}

/// Plans operations of one request, which take effect one after the other.
fn plan_ops(rng: &mut Rng, shape: &HistoryShape, start: u64, count: usize) -> Vec<PlannedOp> {
    let mut happens = start;
    let mut ops: Vec<PlannedOp> = (0..count)
        .map(|_| {
            happens += rng.range(0..shape.max_lag);
            let kind = draw_kind(rng);
            let unknown = !matches!(kind, RegisterOpKind::Read)
                && rng.chance_permille(shape.unknown_permille);
            let late = if unknown {
                rng.range(0..shape.max_lag * 20)
            } else {
                0
            };
            let is_never = unknown && rng.chance_permille(500);
            PlannedOp {
                start,
                effect_at: (!is_never).then_some(happens + late),
                end: 0,
                kind,
                unknown,
                batch: None,
            }
        })
        .collect();
    let end = happens + rng.range(0..shape.max_lag);
    for op in &mut ops {
        op.end = end;
    }
    ops
}

fn draw_kind(rng: &mut Rng) -> RegisterOpKind {
    match rng.range(0..12) {
        0..4 => RegisterOpKind::Read,
        4..7 => RegisterOpKind::Write,
        7 => RegisterOpKind::Delete,
        8 => RegisterOpKind::Create,
        9 => RegisterOpKind::Cas(rng.index(3)),
        10 => RegisterOpKind::Touch,
        _ => RegisterOpKind::TouchIf(rng.index(3)),
    }
}

/// Makes the operations those of a batch: reads with no write in between share a stage.
fn set_stages(ops: &mut [PlannedOp], batch: u64) {
    let mut stage = 0;
    let mut follows_read = None;
    for op in ops {
        let is_read = matches!(op.kind, RegisterOpKind::Read);
        if follows_read.is_some_and(|follows_read| !(follows_read && is_read)) {
            stage += 1;
        }
        op.batch = Some(BatchPosition { batch, stage });
        follows_read = Some(is_read);
    }
}

struct Register {
    state: Content,
    /// Contents by age.
    contents: Vec<Content>,
    last_write: WriteId,
}

impl Register {
    fn apply(&mut self, op: &PlannedOp) -> Option<RegisterOp> {
        let completed = |needs, effect| {
            let completed = RegisterOp::completed(op.start, op.end, needs, effect);
            Some(completed.in_batch(op.batch))
        };
        if matches!(op.kind, RegisterOpKind::Read) {
            return completed(Precondition::Equals(self.state), Effect::Nothing);
        }
        let (needs, effect) = self.request(op.kind);
        let is_met = needs.is_met_by(self.state);
        if let Effect::Put(content) = effect {
            self.contents.push(content);
        }
        if is_met && op.effect_at.is_some() {
            self.state = effect.apply(self.state);
            if let Effect::Touch(_) = effect {
                self.contents.push(self.state);
            }
        }
        if op.unknown {
            let unknown = RegisterOp::with_unknown_outcome(op.start, needs, effect);
            return Some(unknown.in_batch(op.batch));
        }
        if is_met {
            return completed(needs, effect);
        }
        let observed = match needs {
            Precondition::Any => return None,
            Precondition::Equals(content) => Precondition::NotEqual(content),
            Precondition::NotEqual(content) => Precondition::Equals(content),
        };
        completed(observed, Effect::Nothing)
    }

    fn request(&mut self, kind: RegisterOpKind) -> (Precondition, Effect) {
        self.last_write += 1;
        let write = self.last_write;
        let content = if write.is_multiple_of(2) {
            Content::with_metadata(write)
        } else {
            Content::plain(write)
        };
        let before = |ago: usize| self.contents[self.contents.len().saturating_sub(1 + ago)];
        match kind {
            RegisterOpKind::Read => (Precondition::Any, Effect::Nothing),
            RegisterOpKind::Write => (Precondition::Any, Effect::Put(content)),
            RegisterOpKind::Delete => (Precondition::Any, Effect::Delete),
            RegisterOpKind::Create => (Precondition::Equals(ABSENT), Effect::Put(content)),
            RegisterOpKind::Cas(ago) => (Precondition::Equals(before(ago)), Effect::Put(content)),
            RegisterOpKind::TouchIf(ago) if before(ago) != ABSENT => {
                (Precondition::Equals(before(ago)), Effect::Touch(write))
            }
            RegisterOpKind::Touch | RegisterOpKind::TouchIf(_) => {
                (Precondition::NotEqual(ABSENT), Effect::Touch(write))
            }
        }
    }
}

/// Changes the precondition or the times of one operation; the result may be linearizable or not.
pub(super) fn corrupt(rng: &mut Rng, ops: &mut [RegisterOp]) {
    let content = draw_content(rng, ops);
    let at = rng.index(ops.len());
    let op = &mut ops[at];
    let is_touch = matches!(op.effect, Effect::Touch(_));
    let may_need = op.effect == Effect::Nothing || op.effect.apply(content) != content;
    match (op.precondition, rng.index(3)) {
        (Precondition::Equals(_), 0 | 1) if may_need => {
            op.precondition = Precondition::Equals(content);
        }
        (Precondition::NotEqual(_), 0 | 1) if !is_touch => {
            op.precondition = Precondition::NotEqual(content);
        }
        (Precondition::Any | Precondition::Equals(_) | Precondition::NotEqual(_), _) => {
            op.start /= 2;
            op.end = op.end.map(|end| op.start + (end - op.start) / 4);
        }
    }
}

/// Draws a content: of one write, or of a put and a touch, whether or not they met.
fn draw_content(rng: &mut Rng, ops: &[RegisterOp]) -> Content {
    let contents = ops.iter().filter_map(|op| match op.effect {
        Effect::Put(content) => Some(content),
        Effect::Delete => Some(ABSENT),
        Effect::Nothing | Effect::Touch(_) => None,
    });
    let contents: Vec<Content> = contents.collect();
    let content = contents.get(rng.index(contents.len())).copied();
    let content = content.unwrap_or(ABSENT);
    let touches = ops.iter().filter_map(|op| match op.effect {
        Effect::Touch(metadata) => Some(metadata),
        Effect::Nothing | Effect::Put(_) | Effect::Delete => None,
    });
    let touches: Vec<WriteId> = touches.collect();
    match touches.get(rng.index(touches.len())) {
        Some(touch) if content != ABSENT && rng.chance_permille(300) => content.touched(*touch),
        _ => content,
    }
}
