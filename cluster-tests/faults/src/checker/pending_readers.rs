//! Operations that a search has yet to place, by what they need the register to hold.

use std::collections::HashMap;

use super::model::{Content, Precondition, WriteId};

/// Numbers of unplaced operations of known end that need the register to hold something.
#[derive(Default)]
pub(super) struct PendingReaders {
    by_content: HashMap<Content, usize>,
    by_value: HashMap<WriteId, usize>,
}

impl PendingReaders {
    /// Updates the numbers for an operation with this precondition.
    pub(super) fn update(&mut self, needs: Precondition, change: impl Fn(usize) -> usize) {
        if let Precondition::Equals(content) = needs {
            let by_content = self.by_content.entry(content).or_default();
            *by_content = change(*by_content);
            let by_value = self.by_value.entry(content.value).or_default();
            *by_value = change(*by_value);
        }
    }

    /// Returns the number of those that need this content.
    pub(super) fn of_content(&self, content: Content) -> usize {
        self.by_content.get(&content).copied().unwrap_or(0)
    }

    /// Returns the number of those that need this value, with whatever metadata.
    pub(super) fn of_value(&self, value: WriteId) -> usize {
        self.by_value.get(&value).copied().unwrap_or(0)
    }
}
