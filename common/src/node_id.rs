//! Numbers of nodes.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Number of a node in its cluster: unique, and never reused. Stored and sent as a `u64`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(u64);

impl NodeId {
    /// Returns the ID of a number, also in constants.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the ID of a number in a message, in which 0 stands for no node.
    pub fn nonzero(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// As the number alone: openraft writes IDs into its errors by it.
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<NodeId> for u64 {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

/// Node that changes and may be unknown, for several threads.
#[derive(Debug, Default)]
pub struct AtomicNodeId(AtomicU64);

impl AtomicNodeId {
    /// Returns the node; `None` if it is unknown.
    pub fn load(&self, ordering: Ordering) -> Option<NodeId> {
        NodeId::nonzero(self.0.load(ordering))
    }

    /// Sets the node.
    pub fn store(&self, node: Option<NodeId>, ordering: Ordering) {
        self.0.store(node.map_or(0, u64::from), ordering);
    }

    /// Sets the node, and returns the one before.
    pub fn swap(&self, node: Option<NodeId>, ordering: Ordering) -> Option<NodeId> {
        NodeId::nonzero(self.0.swap(node.map_or(0, u64::from), ordering))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_the_number() {
        let id = NodeId::from(12);
        assert_eq!(id.to_string(), "12");
        assert_eq!("12".parse::<NodeId>(), Ok(id));
        assert!("-1".parse::<NodeId>().is_err());
        assert_eq!(serde_json::to_string(&id).unwrap(), "12");
        assert_eq!(serde_json::from_str::<NodeId>("12").unwrap(), id);
    }

    #[test]
    fn zero_stands_for_no_node() {
        assert_eq!(NodeId::nonzero(0), None);
        let node = AtomicNodeId::default();
        assert_eq!(node.load(Ordering::Relaxed), None);
        let id = NodeId::nonzero(12);
        assert_eq!(node.swap(id, Ordering::Relaxed), None);
        assert_eq!(node.load(Ordering::Relaxed), Some(NodeId::from(12)));
        node.store(None, Ordering::Relaxed);
        assert_eq!(node.swap(id, Ordering::Relaxed), None);
    }
}
