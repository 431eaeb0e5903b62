//! Search for a linearization, an order of the operations that explains their results.
//!
//! Operations with a known end must all be placed; those with an unknown outcome may be. These
//! rules keep the search cheap for histories of thousands of operations:
//!
//! - An operation that fits and changes nothing is placed at once, without alternatives: any order
//!   that exists remains one with the operation moved to here.
//! - A content that was overwritten never comes back, and neither does a value. So nothing is
//!   overwritten while a read of it, or a condition on it, still has to be placed.
//! - A touch whose metadata was read fits only on the value that was read with it.
//! - An operation with an unknown outcome is placed only where another one then fits that didn't
//!   before, or before a touch that has to find its value: placed elsewhere, it could be moved to
//!   the right, or left out.
//! - Of two positions with the same state and the same placed operations of known end, the one that
//!   used more of the others can do nothing that the first couldn't.

use std::collections::HashMap;
use std::collections::HashSet;

use super::constraints::Constraints;
use super::model::{ABSENT, Content, Effect, Precondition, RegisterOp, WriteId};
use super::op_set::{OpSet, PackedOpSet};
use super::pending_readers::PendingReaders;

/// Maximum number of steps of a search.
#[derive(Clone, Copy, Debug)]
pub struct SearchBudget(pub u64);

impl Default for SearchBudget {
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
/// Panics if two operations have the same number: the content of a read would be ambiguous.
pub fn check(ops: &[RegisterOp], budget: SearchBudget) -> Verdict {
    assert_unique(ops);
    Search::new(ops, budget).run()
}

fn assert_unique(ops: &[RegisterOp]) {
    let mut seen = HashSet::new();
    let mut assert_new = |write: WriteId| assert!(seen.insert(write), "{write} is written twice");
    for op in ops {
        match op.effect {
            Effect::Put(content) => assert_new(content.value),
            Effect::Touch(metadata) => assert_new(metadata),
            Effect::Nothing | Effect::Delete => {}
        }
    }
}

/// The operation to place next: an index into those of known end, or into the others.
#[derive(Clone, Copy, Debug)]
enum SearchStep {
    Known(usize),
    Unknown(usize),
}

struct SearchFrame {
    /// Steps still to be tried from this position, the best at the end.
    steps: Vec<SearchStep>,
    /// The step that led to this position, and the state before it. `None`: this is the root.
    undo: Option<(SearchStep, Content)>,
}

struct Search<'a> {
    ops: &'a [RegisterOp],
    /// Indexes into `ops`, ordered by start.
    known: Vec<usize>,
    unknown: Vec<usize>,
    placed: OpSet,
    placed_unknown: OpSet,
    state: Content,
    constraints: Constraints,
    pending_readers: PendingReaders,
    /// Explored positions, each with the minimal sets of used operations of unknown outcome.
    explored: HashMap<(PackedOpSet, Content), Vec<Box<[u64]>>>,
    /// The longest order found so far: its length, its operations, and those that didn't fit next.
    best: (usize, Vec<usize>, Vec<usize>),
    budget: u64,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [RegisterOp], budget: SearchBudget) -> Self {
        let by_start = |known: bool| {
            let mut indexes: Vec<usize> = (0..ops.len())
                .filter(|index| ops[*index].end.is_some() == known)
                .collect();
            indexes.sort_by_key(|index| (ops[*index].start, ops[*index].end));
            indexes
        };
        let (known, unknown) = (by_start(true), by_start(false));
        let mut pending_readers = PendingReaders::default();
        for index in &known {
            pending_readers.update(ops[*index].precondition, |count| count + 1);
        }
        Self {
            ops,
            placed: OpSet::new(known.len()),
            placed_unknown: OpSet::new(unknown.len()),
            constraints: Constraints::new(ops, &known),
            known,
            unknown,
            state: ABSENT,
            pending_readers,
            explored: HashMap::new(),
            best: (0, vec![], vec![]),
            budget: budget.0,
        }
    }

    fn run(mut self) -> Verdict {
        let mut frames = vec![SearchFrame {
            steps: self.candidate_steps(),
            undo: None,
        }];
        self.record_best(&frames);
        while self.placed.count() < self.known.len() {
            let Some(frame) = frames.last_mut() else {
                let (_, placed, stuck) = self.best;
                return Verdict::Violated { placed, stuck };
            };
            let Some(step) = frame.steps.pop() else {
                if let Some((step, before)) = frame.undo {
                    self.unplace(step, before);
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
            if self.mark_explored() {
                let steps = self.candidate_steps();
                frames.push(SearchFrame {
                    steps,
                    undo: Some((step, before)),
                });
                self.record_best(&frames);
            } else {
                self.unplace(step, before);
            }
        }
        Verdict::Linearizable
    }

    fn op(&self, step: SearchStep) -> &'a RegisterOp {
        &self.ops[self.index(step)]
    }

    fn index(&self, step: SearchStep) -> usize {
        match step {
            SearchStep::Known(at) => self.known[at],
            SearchStep::Unknown(at) => self.unknown[at],
        }
    }

    fn place(&mut self, step: SearchStep) {
        let op = self.op(step);
        match step {
            SearchStep::Known(at) => {
                self.placed.insert(at);
                let update = |count: usize| count.saturating_sub(1);
                self.pending_readers.update(op.precondition, update);
            }
            SearchStep::Unknown(at) => self.placed_unknown.insert(at),
        }
        self.state = op.effect.apply(self.state);
    }

    fn unplace(&mut self, step: SearchStep, before: Content) {
        match step {
            SearchStep::Known(at) => {
                self.placed.remove(at);
                let precondition = self.op(step).precondition;
                self.pending_readers.update(precondition, |count| count + 1);
            }
            SearchStep::Unknown(at) => self.placed_unknown.remove(at),
        }
        self.state = before;
    }

    /// Returns whether the operation at `index` fits on a register with this content.
    fn fits(&self, index: usize, content: Content) -> bool {
        self.ops[index].precondition.is_met_by(content) && self.constraints.allows(index, content)
    }

    /// Returns whether all operations that come before the one at `index` are placed.
    fn is_ready(&self, index: usize) -> bool {
        let predecessors = self.constraints.predecessors(index);
        predecessors.iter().all(|at| self.placed.contains(*at))
    }

    /// Marks this position as explored; returns false if it, or a better one, was explored before.
    fn mark_explored(&mut self) -> bool {
        let used = self.explored.entry((self.placed.packed(), self.state));
        let used = used.or_default();
        if used
            .iter()
            .any(|fewer| self.placed_unknown.is_superset_of(fewer))
        {
            return false;
        }
        used.push(self.placed_unknown.words());
        true
    }

    /// Returns the operations of known end that may come next: none ended before another one began,
    /// and those before it in its batch are placed. Also returns the first end of all left.
    fn next_known(&self) -> (Vec<usize>, u64) {
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
        next.retain(|at| {
            let index = self.known[*at];
            self.ops[index].start <= first_end && self.is_ready(index)
        });
        (next, first_end)
    }

    /// Returns the steps that may come next, the best at the end.
    fn candidate_steps(&self) -> Vec<SearchStep> {
        let (next, first_end) = self.next_known();
        let fits = |at: &usize| self.fits(self.known[*at], self.state);
        let changes = |at: &usize| self.ops[self.known[*at]].effect != Effect::Nothing;
        if let Some(at) = next.iter().find(|at| fits(at) && !changes(at)) {
            return vec![SearchStep::Known(*at)];
        }
        let mut steps = self.useful_unknown_steps(&next, first_end);
        let mut fitting: Vec<usize> = next.into_iter().filter(fits).collect();
        fitting.sort_by_key(|at| std::cmp::Reverse(self.ops[self.known[*at]].end));
        steps.extend(fitting.into_iter().map(SearchStep::Known));
        steps.retain(|step| !self.overwrites_needed_value(*step));
        steps
    }

    /// Returns the operations of unknown outcome after which something fits that doesn't fit now,
    /// or a touch finds another value.
    fn useful_unknown_steps(&self, next: &[usize], first_end: u64) -> Vec<SearchStep> {
        let free = |at: &usize| {
            let index = self.unknown[*at];
            !self.placed_unknown.contains(*at)
                && self.ops[index].start <= first_end
                && self.is_ready(index)
        };
        let free: Vec<usize> = (0..self.unknown.len()).filter(free).collect();
        let next = next.iter().map(|at| self.known[*at]);
        let candidates: Vec<usize> = next
            .chain(free.iter().map(|at| self.unknown[*at]))
            .collect();
        let useful = |at: &usize| {
            let index = self.unknown[*at];
            self.fits(index, self.state) && self.is_useful(index, &candidates)
        };
        free.into_iter()
            .filter(useful)
            .map(SearchStep::Unknown)
            .collect()
    }

    /// Returns whether it matters to the candidates that the operation at `index` comes first.
    fn is_useful(&self, index: usize, candidates: &[usize]) -> bool {
        let effect = self.ops[index].effect;
        let state_after = effect.apply(self.state);
        let needs_touched = match effect {
            Effect::Put(content) => self.constraints.may_need_touched(content.value),
            Effect::Nothing | Effect::Delete | Effect::Touch(_) => false,
        };
        candidates.iter().any(|candidate| {
            let is_touch = matches!(self.ops[*candidate].effect, Effect::Touch(_));
            self.fits(*candidate, state_after)
                && (is_touch && needs_touched || !self.fits(*candidate, self.state))
        })
    }

    /// Returns whether a step overwrites what another operation still has to observe.
    fn overwrites_needed_value(&self, step: SearchStep) -> bool {
        let op = self.op(step);
        if self.state == ABSENT || op.effect.apply(self.state) == self.state {
            return false;
        }
        let own = matches!(step, SearchStep::Known(_))
            && op.precondition == Precondition::Equals(self.state);
        let waiting = match op.effect {
            Effect::Touch(_) => self.pending_readers.of_content(self.state),
            Effect::Nothing | Effect::Put(_) | Effect::Delete => {
                self.pending_readers.of_value(self.state.value)
            }
        };
        waiting > usize::from(own)
    }

    /// Records the order if it is the longest so far, once the search is stuck at its end.
    fn record_best(&mut self, frames: &[SearchFrame]) {
        let stuck = frames.last().is_some_and(|frame| frame.steps.is_empty());
        let (longest, _, known) = &self.best;
        if !stuck || (self.placed.count() <= *longest && !known.is_empty()) {
            return;
        }
        let steps = frames.iter().filter_map(|frame| frame.undo);
        let placed = steps.map(|(step, _)| self.index(step)).collect();
        let (next, _) = self.next_known();
        let stuck = next.into_iter().map(|at| self.known[at]).collect();
        self.best = (self.placed.count(), placed, stuck);
    }
}
