//! Search for a linearization, an order of the operations that explains their results.
//!
//! Operations with a known end must all be placed; those with an unknown outcome may be. These
//! rules keep the search cheap for histories of thousands of operations:
//!
//! - An operation that fits and changes nothing is placed at once, without alternatives: any order
//!   that exists remains one with the operation moved to here.
//! - A value that was overwritten never comes back. So no value is overwritten while a read of it,
//!   or a condition on it, still has to be placed.
//! - An operation with an unknown outcome is placed only where another one then fits that didn't
//!   before: placed elsewhere, it could be moved to the right, or left out.
//! - Of two positions with the same state and the same placed operations of known end, the one that
//!   used more of the others can do nothing that the first couldn't.

use std::collections::HashMap;
use std::collections::HashSet;

use super::model::{ABSENT, Needs, Op, Value};
use super::places::{Packed, Places};

/// Maximum number of steps of a search.
#[derive(Clone, Copy, Debug)]
pub struct Budget(pub u64);

impl Default for Budget {
    fn default() -> Self {
        Self(5_000_000)
    }
}

/// Result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The history is linearizable.
    Linearizable,
    /// No order exists. `placed` operations of those given, by index, could be ordered, and then
    /// none of `stuck` fitted: start the investigation there.
    Violated {
        /// The longest order that was found.
        placed: Vec<usize>,
        /// The operations that had to come next.
        stuck: Vec<usize>,
    },
    /// The search exceeded its budget. Callers must treat it as a failure: nothing was shown.
    Undecided,
}

/// Searches for a linearization of these operations on a key that didn't exist before.
///
/// # Panics
/// Panics if two operations write the same value: the value of a read would be ambiguous.
pub fn check(ops: &[Op], budget: Budget) -> Verdict {
    assert_unique(ops);
    Search::new(ops, budget).run()
}

fn assert_unique(ops: &[Op]) {
    let mut seen = HashSet::new();
    for value in ops.iter().filter_map(|op| op.sets) {
        assert!(
            value == ABSENT || seen.insert(value),
            "value {value} is written twice"
        );
    }
}

/// The operation to place next: an index into those of known end, or into the others.
#[derive(Clone, Copy, Debug)]
enum Step {
    Known(usize),
    Unknown(usize),
}

struct Frame {
    /// Steps still to be tried from this position, the best at the end.
    steps: Vec<Step>,
    /// The step that led to this position, and the state before it. `None`: this is the root.
    undo: Option<(Step, Value)>,
}

struct Search<'a> {
    ops: &'a [Op],
    /// Indexes into `ops`, ordered by start.
    known: Vec<usize>,
    unknown: Vec<usize>,
    placed: Places,
    used: Places,
    state: Value,
    /// Number of unplaced operations of known end that need the register to hold each value.
    waiting: HashMap<Value, usize>,
    /// Explored positions, each with the minimal sets of used operations of unknown outcome.
    reached: HashMap<(Packed, Value), Vec<Box<[u64]>>>,
    /// The longest order found so far: its length, its operations, and those that didn't fit next.
    best: (usize, Vec<usize>, Vec<usize>),
    budget: u64,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Op], budget: Budget) -> Self {
        let by_start = |known: bool| {
            let mut indexes: Vec<usize> = (0..ops.len())
                .filter(|index| ops[*index].end.is_some() == known)
                .collect();
            indexes.sort_by_key(|index| (ops[*index].start, ops[*index].end));
            indexes
        };
        let (known, unknown) = (by_start(true), by_start(false));
        let mut waiting = HashMap::new();
        for index in &known {
            if let Needs::Is(value) = ops[*index].needs {
                *waiting.entry(value).or_default() += 1;
            }
        }
        Self {
            ops,
            placed: Places::new(known.len()),
            used: Places::new(unknown.len()),
            known,
            unknown,
            state: ABSENT,
            waiting,
            reached: HashMap::new(),
            best: (0, vec![], vec![]),
            budget: budget.0,
        }
    }

    fn run(mut self) -> Verdict {
        let mut frames = vec![Frame {
            steps: self.steps(),
            undo: None,
        }];
        self.note_best(&frames);
        while self.placed.count() < self.known.len() {
            let Some(frame) = frames.last_mut() else {
                let (_, placed, stuck) = self.best;
                return Verdict::Violated { placed, stuck };
            };
            let Some(step) = frame.steps.pop() else {
                if let Some((step, before)) = frame.undo {
                    self.take_back(step, before);
                }
                frames.pop();
                continue;
            };
            if self.budget == 0 {
                return Verdict::Undecided;
            }
            self.budget -= 1;
            let before = self.state;
            self.place(step);
            if self.is_new() {
                let steps = self.steps();
                frames.push(Frame {
                    steps,
                    undo: Some((step, before)),
                });
                self.note_best(&frames);
            } else {
                self.take_back(step, before);
            }
        }
        Verdict::Linearizable
    }

    fn op(&self, step: Step) -> &'a Op {
        &self.ops[self.index(step)]
    }

    fn index(&self, step: Step) -> usize {
        match step {
            Step::Known(at) => self.known[at],
            Step::Unknown(at) => self.unknown[at],
        }
    }

    fn place(&mut self, step: Step) {
        let op = self.op(step);
        match step {
            Step::Known(at) => {
                self.placed.insert(at);
                self.change_waiting(op.needs, |count| count.saturating_sub(1));
            }
            Step::Unknown(at) => self.used.insert(at),
        }
        self.state = op.sets.unwrap_or(self.state);
    }

    fn take_back(&mut self, step: Step, before: Value) {
        match step {
            Step::Known(at) => {
                self.placed.remove(at);
                self.change_waiting(self.op(step).needs, |count| count + 1);
            }
            Step::Unknown(at) => self.used.remove(at),
        }
        self.state = before;
    }

    fn change_waiting(&mut self, needs: Needs, change: impl Fn(usize) -> usize) {
        if let Needs::Is(value) = needs {
            let count = self.waiting.entry(value).or_default();
            *count = change(*count);
        }
    }

    /// Marks this position as explored; returns false if it, or a better one, was explored before.
    fn is_new(&mut self) -> bool {
        let used = self.reached.entry((self.placed.packed(), self.state));
        let used = used.or_default();
        if used.iter().any(|fewer| self.used.covers(fewer)) {
            return false;
        }
        used.push(self.used.words());
        true
    }

    /// Returns the operations of known end that may come next: none ended before another one began.
    fn next_known(&self) -> Vec<usize> {
        let mut next = vec![];
        let mut first_end = u64::MAX;
        for at in self.placed.first_missing()..self.known.len() {
            let op = &self.ops[self.known[at]];
            if op.start > first_end {
                break;
            }
            if !self.placed.contains(at) {
                first_end = first_end.min(op.end.unwrap_or(u64::MAX));
                next.push(at);
            }
        }
        next.retain(|at| self.ops[self.known[*at]].start <= first_end);
        next
    }

    /// Returns the steps that may come next, the best at the end.
    fn steps(&self) -> Vec<Step> {
        let next = self.next_known();
        let fits = |at: &usize| self.ops[self.known[*at]].needs.hold(self.state);
        let changes = |at: &usize| self.ops[self.known[*at]].sets.is_some();
        if let Some(at) = next.iter().find(|at| fits(at) && !changes(at)) {
            return vec![Step::Known(*at)];
        }
        let mut steps = self.useful_unknown(&next);
        let mut fitting: Vec<usize> = next.into_iter().filter(fits).collect();
        fitting.sort_by_key(|at| std::cmp::Reverse(self.ops[self.known[*at]].end));
        steps.extend(fitting.into_iter().map(Step::Known));
        steps.retain(|step| !self.buries(*step));
        steps
    }

    /// Returns the operations of unknown outcome after which something fits that doesn't fit now.
    fn useful_unknown(&self, next: &[usize]) -> Vec<Step> {
        let ends = next.iter().filter_map(|at| self.ops[self.known[*at]].end);
        let first_end = ends.min().unwrap_or(u64::MAX);
        let free =
            |at: &usize| !self.used.contains(*at) && self.ops[self.unknown[*at]].start <= first_end;
        let free: Vec<usize> = (0..self.unknown.len()).filter(free).collect();
        let next = next.iter().map(|at| self.known[*at]);
        let misfits: Vec<Needs> = next
            .chain(free.iter().map(|at| self.unknown[*at]))
            .map(|index| self.ops[index].needs)
            .filter(|needs| !needs.hold(self.state))
            .collect();
        let useful = |at: &usize| {
            let op = &self.ops[self.unknown[*at]];
            let state_after = op.sets.unwrap_or(self.state);
            op.needs.hold(self.state) && misfits.iter().any(|needs| needs.hold(state_after))
        };
        free.into_iter().filter(useful).map(Step::Unknown).collect()
    }

    /// Returns whether a step overwrites a value that another operation still has to observe.
    fn buries(&self, step: Step) -> bool {
        let op = self.op(step);
        if self.state == ABSENT || op.sets.is_none_or(|value| value == self.state) {
            return false;
        }
        let own = matches!(step, Step::Known(_)) && op.needs == Needs::Is(self.state);
        let waiting = self.waiting.get(&self.state).copied().unwrap_or(0);
        waiting > usize::from(own)
    }

    /// Records the order if it is the longest so far, once the search is stuck at its end.
    fn note_best(&mut self, frames: &[Frame]) {
        let stuck = frames.last().is_some_and(|frame| frame.steps.is_empty());
        let (longest, _, known) = &self.best;
        if !stuck || (self.placed.count() <= *longest && !known.is_empty()) {
            return;
        }
        let steps = frames.iter().filter_map(|frame| frame.undo);
        let placed = steps.map(|(step, _)| self.index(step)).collect();
        let next = self.next_known().into_iter();
        let stuck = next.map(|at| self.known[at]).collect();
        self.best = (self.placed.count(), placed, stuck);
    }
}
