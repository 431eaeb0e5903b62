//! Constraints that hold in each order which explains the results, found before the search.

use std::collections::{HashMap, HashSet};

use super::model::{Content, Effect, Precondition, RegisterOp, WriteId};

/// Constraints on the operations of a search.
pub(super) struct Constraints {
    /// Operations of known end, by their position among these, that come before an operation.
    predecessors: Vec<Vec<usize>>,
    /// Value that a touch finds, since its metadata was observed with that value.
    touched_values: Vec<Option<WriteId>>,
    /// Values that were observed with the metadata of a touch.
    values_seen_touched: HashSet<WriteId>,
    /// True if a condition excludes the metadata of a touch that was never observed.
    has_unexplained_condition: bool,
}

impl Constraints {
    /// Finds the constraints on `ops`, of which those in `known`, by index, have a known end.
    pub(super) fn new(ops: &[RegisterOp], known: &[usize]) -> Self {
        let touched_values = touched_values(ops, known);
        let unobserved_touches: HashSet<WriteId> = ops
            .iter()
            .zip(&touched_values)
            .filter_map(|(op, value)| match op.effect {
                Effect::Touch(metadata) if value.is_none() => Some(metadata),
                Effect::Touch(_) | Effect::Nothing | Effect::Put(_) | Effect::Delete => None,
            })
            .collect();
        let has_unexplained_condition = ops.iter().any(|op| match op.precondition {
            Precondition::NotEqual(content) => unobserved_touches.contains(&content.metadata),
            Precondition::Any | Precondition::Equals(_) => false,
        });
        Self {
            predecessors: predecessors(ops, known),
            touched_values,
            values_seen_touched: values_seen_touched(ops),
            has_unexplained_condition,
        }
    }

    /// Returns the positions of the operations of known end that come before the one at `index`.
    pub(super) fn predecessors(&self, index: usize) -> &[usize] {
        &self.predecessors[index]
    }

    /// Returns whether the operation at `index` may take effect on `content`, by the value that it
    /// must find.
    pub(super) fn allows(&self, index: usize, content: Content) -> bool {
        self.touched_values[index].is_none_or(|value| value == content.value)
    }

    /// Returns whether it may matter that a touch finds the value of the put `put`, and not another
    /// one.
    pub(super) fn may_need_touched(&self, put: WriteId) -> bool {
        self.has_unexplained_condition || self.values_seen_touched.contains(&put)
    }
}

fn predecessors(ops: &[RegisterOp], known: &[usize]) -> Vec<Vec<usize>> {
    let mut batches: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, index) in known.iter().enumerate() {
        if let Some(position) = ops[*index].batch {
            batches.entry(position.batch).or_default().push(at);
        }
    }
    let predecessors = ops.iter().map(|op| {
        let batch = op.batch.and_then(|position| batches.get(&position.batch));
        let earlier = batch.into_iter().flatten().copied();
        earlier.filter(|at| op.follows(&ops[known[*at]])).collect()
    });
    predecessors.collect()
}

/// Returns the value that each touch finds: that with which an operation of known end observed its
/// metadata. Metadata is unique, so no other write can have left the two together.
fn touched_values(ops: &[RegisterOp], known: &[usize]) -> Vec<Option<WriteId>> {
    let mut values = HashMap::new();
    for index in known {
        if let Precondition::Equals(content) = ops[*index].precondition {
            values.insert(content.metadata, content.value);
        }
    }
    let found = ops.iter().map(|op| match op.effect {
        Effect::Touch(metadata) => values.get(&metadata).copied(),
        Effect::Nothing | Effect::Put(_) | Effect::Delete => None,
    });
    found.collect()
}

fn values_seen_touched(ops: &[RegisterOp]) -> HashSet<WriteId> {
    let puts: HashSet<Content> = ops
        .iter()
        .filter_map(|op| match op.effect {
            Effect::Put(content) => Some(content),
            Effect::Nothing | Effect::Delete | Effect::Touch(_) => None,
        })
        .collect();
    let observed = ops.iter().filter_map(|op| match op.precondition {
        Precondition::Equals(content) => Some(content),
        Precondition::Any | Precondition::NotEqual(_) => None,
    });
    observed
        .filter(|content| !puts.contains(content))
        .map(|content| content.value)
        .collect()
}
