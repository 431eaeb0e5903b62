//! Why a command on nodes or placements changed nothing.

use crate::raft::NodeId;

/// Why a command on nodes or placements changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// Node 0 was named, which is none.
    #[error("0 is not a node's number")]
    Zero,
    /// No such node.
    #[error("node {node} is unknown")]
    Unknown {
        /// The node named.
        node: NodeId,
    },
    /// The node was removed: it can only come back under a new number.
    #[error("node {node} was removed from the cluster")]
    Removed {
        /// The node named.
        node: NodeId,
    },
    /// No such region.
    #[error("the cluster has no such region")]
    UnknownRegion,
    /// The node is of another region.
    #[error("node {node} belongs to another region")]
    OtherRegion {
        /// The node named.
        node: NodeId,
    },
    /// An address is empty or too long.
    #[error("an address must have 1 to {limit} bytes")]
    BadAddress {
        /// The most bytes that it may have.
        limit: u64,
    },
    /// Another node has the rpc address.
    #[error(
        "node {node} has the same rpc address: if that node is lost, `cloudkv-node admin replace \
         {node}` frees it; else give this one another rpc or advertise_rpc"
    )]
    AddressTaken {
        /// The node that has it.
        node: NodeId,
    },
    /// The version is too long.
    #[error("a version must have at most {limit} bytes")]
    LongVersion {
        /// The most bytes that it may have.
        limit: u64,
    },
    /// The command names no state.
    #[error("no state was named")]
    NoState,
    /// The node isn't in the state that the command expects.
    #[error("node {node} is in another state by now")]
    OtherState {
        /// The node named.
        node: NodeId,
    },
    /// The cluster has fewer shards.
    #[error("there is no such shard: the cluster has {shards}")]
    UnknownShard {
        /// The number of shards.
        shards: u64,
    },
    /// The placement has changed since it was read.
    #[error("the placement has changed: it is at epoch {epoch}")]
    StaleEpoch {
        /// The epoch that it has.
        epoch: u64,
    },
    /// The number of voters is neither one nor three.
    #[error("a shard has one voter or three, not {voters}")]
    BadVoters {
        /// The number of voters named.
        voters: u64,
    },
    /// A node is named more than once.
    #[error("node {node} is named twice")]
    NamedTwice {
        /// The node.
        node: NodeId,
    },
    /// More shards than a region can have.
    #[error("a region has at most {limit} shards")]
    TooManyShards {
        /// The most shards that it may have.
        limit: u64,
    },
}
