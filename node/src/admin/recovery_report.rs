//! Report on a recovery by force: what this node can recover, who is lost, and what may be lost.

use serde::{Deserialize, Serialize};

use crate::raft::LogPosition;

/// Groups that one command recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryScope {
    /// The metadata.
    Metadata,
    /// The shards of this node without a leader; where there are other regions, the whole region.
    Shards,
}

impl RecoveryScope {
    /// All scopes.
    pub(super) const ALL: [Self; 2] = [Self::Metadata, Self::Shards];

    /// Name in paths and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Shards => "shards",
        }
    }
}

/// Report on a recovery by force at this node. Nodes are given by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// Groups that the command recovers.
    pub scope: RecoveryScope,
    /// This node.
    pub node: String,
    /// Name of its region.
    pub region: String,
    /// True if the region leaves the cluster, and joins the other regions anew.
    pub rejoins: bool,
    /// The metadata, or the shards of this node.
    pub groups: Vec<RecoveryGroup>,
    /// Nodes that are declared lost for good.
    pub lost: Vec<String>,
    /// Members without a vote that can't be asked how far their logs reach. They aren't declared
    /// lost.
    pub unreachable: Vec<String>,
    /// What may be lost, a sentence each.
    pub losses: Vec<String>,
    /// What happens after the confirmation, and what is left to be done, a sentence each.
    pub next: Vec<String>,
    /// Reason why nothing can be recovered here now.
    pub refusal: Option<String>,
    /// Text that confirms the recovery; empty if it is refused.
    pub confirmation: String,
}

/// A group in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryGroup {
    /// `metadata`, or `shard-` and a number.
    pub group: String,
    /// Voters of the configuration in force here.
    pub voters: Vec<String>,
    /// Voters that can't be reached.
    pub lost: Vec<String>,
    /// Last entry of this node's log.
    pub last: Option<LogPosition>,
    /// Index of the last entry that this node knows to be committed.
    pub committed: Option<u64>,
    /// The other members that can be reached.
    pub others: Vec<RecoveryMember>,
    /// Leader that this node knew last.
    pub lead_by: Option<String>,
    /// Reason why the group can't be recovered here.
    pub refusal: Option<String>,
}

/// Another member of a group that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryMember {
    /// The node.
    pub node: String,
    /// `voter` or `learner`; `none` if it isn't a member.
    pub role: String,
    /// Last entry of its log; `None` if it has none, or doesn't tell.
    pub last: Option<LogPosition>,
}
