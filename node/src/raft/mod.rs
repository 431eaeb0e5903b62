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
//! | `apply_progress` | how far entries are applied, for readers on any thread |
//! | `checkpoints` | digests after certain entries, compared between replicas |
//! | `applied_position` | position and members that a group's rows hold |
//! | `snapshot` | a group's rows as chunks, written into a new generation by the receiver |
//! | `snapshot_sender` | sends a snapshot to a member, over as many connections as it takes |
//! | `snapshot_receiver` | receives, verifies and installs a snapshot |
//! | `snapshot_transfers` | progress of each snapshot, and the log that is retained for it |
//! | `log_retention` | bounds the log that is retained for members that lag |
//! | `log_budget` | bounds the log that all groups of a node retain for them |
//! | `log_summary` | extent of a group's log here, and the configuration in force |
//! | `log_maintenance` | flushes, purges and cleans while the node runs |
//! | `repair` | replaces a state that the disk has damaged by a copy of the leader's |
//! | `repair_state` | how far a replica's repair has come |
//! | `repair_sends` | members to which a leader sends its state for a repair |
//! | `state_replacement` | replaces a damaged state by a received snapshot, replays the log |
//! | `ack_tracker` | when the other members last acknowledged this leader |
//! | `leader_contact` | when this node last knew the group to have a leader |
//! | `freshness` | decides whether a follower's state may be read |
//! | `lease` | decides whether this node may answer a read now, without a queue |
//! | `lease_renewal` | renews the lease while this node leads |
//! | `group/` | a running group: settings, start, propose, purge, status, stop |
//! | `query` | queries to the core of Raft |
//! | `leadership` | transfers leadership |
//! | `membership` | changes a group's members, step by step |
//! | `network` | clients of the other members |
//! | `commit_coalescer` | delays commit notifications so that they go with the next entries |
//! | `raft_member` | handles the calls of the other members |
//! | `offline` | a group of a node that doesn't run, for recoveries, restores and exports |
//! | `local_group` | a group of any machine, for maintenance and status |
//! | `group_status`, `snapshot_status` | status and metrics |
//! | `refusal` | the reply to a call that isn't handled |

mod ack_tracker;
mod applied_position;
mod apply_progress;
mod checkpoints;
mod codec;
mod commit_coalescer;
mod freshness;
mod group;
mod group_status;
mod leader_contact;
mod leadership;
mod lease;
mod lease_renewal;
mod local_group;
mod log_budget;
mod log_maintenance;
mod log_retention;
mod log_store;
mod log_summary;
mod membership;
mod network;
mod offline;
mod query;
mod raft_member;
mod refusal;
mod repair;
mod repair_sends;
mod repair_state;
mod replica;
mod snapshot;
mod snapshot_receiver;
mod snapshot_sender;
mod snapshot_status;
mod snapshot_transfers;
mod state_replacement;
mod types;

#[cfg(test)]
mod durable_commit_tests;
#[cfg(test)]
mod snapshot_receiver_tests;
#[cfg(test)]
mod snapshot_sender_tests;
#[cfg(test)]
mod storage_tests;

pub(crate) use applied_position::applied_index;
#[cfg(test)]
pub(crate) use applied_position::applied_row;
pub(crate) use checkpoints::{
    CheckpointVerdict, Checkpoints, PeerCheckpoints, compare_checkpoints,
};
pub(crate) use group::Group;
pub(crate) use group::proposal::{ProposalResult, ProposeError};
pub(crate) use group::settings::GroupSettings;
pub(crate) use group::status::GroupStatus;
pub(crate) use local_group::LocalGroup;
pub(crate) use log_budget::LogBudget;
pub(crate) use log_maintenance::LogMaintenance;
pub(crate) use log_summary::{LogPosition, LogSummary};
pub(crate) use membership::{MembershipStep, TargetMembership};
pub(crate) use offline::OfflineGroup;
pub(crate) use raft_member::RaftMember;
pub(crate) use refusal::not_here_reply;
pub(crate) use snapshot_transfers::{
    SnapshotSettings, SnapshotTransfers, TransferDirection, TransferStatus,
};
pub(crate) use types::{MachineState, StateMachine};

pub(crate) use crate::types::NodeId;
