//! Reasons why commands on nodes and placements are refused.

use crate::raft::NodeId;

/// Reason why a command on nodes or placements was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// The command names node 0, which doesn't exist.
    #[error("0 is not a node ID")]
    ZeroNodeId,
    /// The node doesn't exist.
    #[error("node {node} is unknown")]
    UnknownNode {
        /// Node of the command.
        node: NodeId,
    },
    /// The node was removed: it can only come back under a new ID.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// Node of the command.
        node: NodeId,
    },
    /// The region doesn't exist.
    #[error("the cluster has no such region")]
    UnknownRegion,
    /// The node belongs to another region.
    #[error("node {node} belongs to another region")]
    WrongRegion {
        /// Node of the command.
        node: NodeId,
    },
    /// An address is empty or too long.
    #[error("an address must have 1 to {limit} bytes")]
    InvalidAddress {
        /// Maximum length in bytes.
        limit: u64,
    },
    /// Another node has the rpc address.
    #[error(
        "another node has the same rpc address: if it is lost, `cloudkv-node admin replace \
         {node}` at another node frees it; else give this one another rpc or advertise_rpc"
    )]
    AddressTaken {
        /// The other node.
        node: NodeId,
    },
    /// The version is too long.
    #[error("a version must have at most {limit} bytes")]
    VersionTooLong {
        /// Maximum length in bytes.
        limit: u64,
    },
    /// The command names no state.
    #[error("no state was named")]
    MissingState,
    /// The node isn't in the expected state.
    #[error("node {node} is in another state by now")]
    UnexpectedState {
        /// Node of the command.
        node: NodeId,
    },
    /// The cluster has fewer shards.
    #[error("there is no such shard: the cluster has {shards}")]
    UnknownShard {
        /// Number of shards.
        shards: u64,
    },
    /// The placement has changed since it was read.
    #[error("the placement has changed: it is at epoch {epoch}")]
    StaleEpoch {
        /// Current epoch of the placement.
        epoch: u64,
    },
    /// The number of voters is neither one nor three.
    #[error("a shard has one voter or three, not {voters}")]
    InvalidVoterCount {
        /// Number of voters in the command.
        voters: u64,
    },
    /// A node is named more than once.
    #[error("node {node} is named twice")]
    DuplicateMember {
        /// The repeated node.
        node: NodeId,
    },
    /// The cluster has more shards than a region can have.
    #[error("a region has at most {limit} shards")]
    TooManyShards {
        /// Maximum number of shards.
        limit: u64,
    },
}
