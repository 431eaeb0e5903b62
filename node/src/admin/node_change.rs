//! Changes of nodes, as the admin port and the commands name and report them.

use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

/// A change of a node's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Moves the node's shards away, and then removes it.
    Decommission,
    /// Lets the node take shards again.
    Recommission,
    /// Removes a lost node: others replace it, and it can't come back.
    Replace,
}

impl NodeChange {
    /// All changes.
    pub(super) const ALL: [Self; 3] = [Self::Decommission, Self::Recommission, Self::Replace];

    /// Name in paths and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decommission => "decommission",
            Self::Recommission => "recommission",
            Self::Replace => "replace",
        }
    }
}

/// A node's number and name, after a change was requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedNode {
    /// Number of the node.
    pub node: NodeId,
    /// Display name.
    pub name: String,
    /// False if the node was in the requested state before.
    pub is_changed: bool,
    /// The present node at the address of a removed one, with its number.
    pub successor: Option<String>,
}

/// Describes the node at the address of a removed one, after the words that this was removed.
pub(super) fn describe_successor(successor: Option<&str>) -> String {
    let describe = |name: &str| format!("; {name} is at its address now");
    successor.map_or_else(String::new, describe)
}

/// Consequences of decommissioning a node, and its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecommissionReport {
    /// Number of the node.
    pub node: NodeId,
    /// Display name.
    pub name: String,
    /// Name of the node's region.
    pub region: String,
    /// `active`, `decommissioning` or `removed`.
    pub state: String,
    /// Losses that the region survives with the node; empty if it can't be decommissioned, or was
    /// removed.
    pub survives_now: String,
    /// Losses that the region survives without the node; empty as above.
    pub survives_without: String,
    /// Number of the metadata's voters with the node.
    pub metadata_voters_now: usize,
    /// Number of the metadata's voters without the node.
    pub metadata_voters_without: usize,
    /// True if the region survives less without the node.
    pub worse: bool,
    /// Reason for which the node can't be decommissioned now.
    pub obstacle: Option<String>,
    /// Groups that still need the node.
    pub groups: Vec<String>,
}

/// Body of `POST /nodes/{node}/{change}`; it may be left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBody {
    /// Allows that the region survives less afterwards.
    #[serde(default)]
    pub confirm: bool,
}
