//! Raft: the adapter between openraft and this node's storage, shared by the metadata group and the
//! shard groups.
//!
//! A replicated state machine is a [`StateMachine`]: the types of its commands and responses, and a
//! [`MachineState`] that applies them. Everything else is the same for all groups:
//!
//! | file | responsibility |
//! | --- | --- |
//! | `types` | openraft's type parameters; the traits that a state machine implements |
//! | `codec` | log positions, votes, memberships and entries as bytes |
//! | `log_store` | the group's log, on the log database, with its newest entries in memory |
//! | `replica` | applies entries in batches, with the position in the same batch |
//! | `snapshot` | a group's rows as chunks, written into a new generation by the receiver |
//! | `snapshot_sender` | sends a snapshot to a member, over as many connections as it takes |
//! | `snapshot_receiver` | receives, verifies and installs a snapshot |
//! | `snapshot_transfers` | progress of each snapshot, and the log that is retained for it |
//! | `log_retention` | bounds the log that is retained for members that lag |
//! | `repair` | replaces a state that the disk has damaged by a copy of the leader's |
//! | `ack_tracker` | when the other members last acknowledged this leader |
//! | `leader_contact` | when this node last knew the group to have a leader |
//! | `freshness` | decides whether a follower's state may be read |
//! | `lease` | decides whether this node may answer a read now, without a queue |
//! | `group` | a running group: start, propose, purge, stop |
//! | `query` | queries to the core of Raft |
//! | `leadership` | renews the lease, transfers leadership |
//! | `membership` | changes a group's members, step by step |
//! | `network` | clients of the other members |
//! | `commit_coalescer` | delays commit notifications so that they go with the next entries |
//! | `raft_member` | handles the calls of the other members |

mod ack_tracker;
mod codec;
mod commit_coalescer;
mod freshness;
mod group;
mod leader_contact;
mod leadership;
mod lease;
mod log_retention;
mod log_store;
mod membership;
mod network;
mod query;
mod raft_member;
mod repair;
mod replica;
mod snapshot;
mod snapshot_receiver;
mod snapshot_sender;
mod snapshot_transfers;
mod types;

#[cfg(test)]
mod durable_commit_tests;
#[cfg(test)]
mod snapshot_receiver_tests;
#[cfg(test)]
mod snapshot_sender_tests;
#[cfg(test)]
mod storage_tests;

pub(crate) use group::{Group, GroupSettings, GroupStatus, ProposalResult, ProposeError};
pub(crate) use membership::{MembershipStep, TargetMembership};
pub(crate) use raft_member::{RaftMember, not_here_reply};
pub(crate) use snapshot_transfers::{
    SnapshotSettings, SnapshotTransfers, TransferDirection, TransferStatus,
};
pub(crate) use types::{MachineState, NodeId, StateMachine};
