//! Raft: the adapter between openraft and this node's storage, shared by the metadata group and
//! the shard groups.
//!
//! A replicated state machine is a [`Machine`]: the types of its commands and answers, and a
//! [`State`] that applies them. Everything else is the same for all groups:
//!
//! | file | what it does |
//! | --- | --- |
//! | `types` | what openraft is made of here; the traits a state machine implements |
//! | `codec` | log positions, votes, memberships and entries as bytes |
//! | `log_store` | the group's log, on the log database, with its newest entries in memory |
//! | `replica` | applies entries in batches, with the position in the same batch |
//! | `snapshot` | a group's rows as chunks, and their way into a new generation |
//! | `sending` | a snapshot sent to a member, over as many connections as it takes |
//! | `reception` | a snapshot received, checked and installed |
//! | `transfers` | how far each snapshot is, and from where on the log is held for it |
//! | `retention` | how much of the log is kept for members that lag |
//! | `repair` | a replica whose state the disk has damaged, replaced by a copy of the leader's |
//! | `acks` | when the other members last acknowledged this leader |
//! | `contact` | when this node last knew the group to have a leader |
//! | `lease` | the answer to "may this node answer a read now?", without a queue |
//! | `group` | a running group: start, propose, purge, stop |
//! | `asking` | questions to the core of Raft |
//! | `leading` | who leads: the lease kept true, leadership handed over |
//! | `members` | changes of a group's members, step by step |
//! | `network` | the other members, as this one calls them |
//! | `commits` | news of commits that goes with the next entries |
//! | `member` | what this member answers to them |

mod acks;
mod asking;
mod codec;
mod commits;
mod contact;
mod freshness;
mod group;
mod leading;
mod lease;
mod log_store;
mod member;
mod members;
mod network;
mod reception;
mod repair;
mod replica;
mod retention;
mod sending;
mod snapshot;
mod transfers;
mod types;

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod reception_tests;
#[cfg(test)]
mod sending_tests;
#[cfg(test)]
mod suite_tests;

pub use group::{Group, GroupSettings, Proposal, ProposeError, Status};
pub use lease::Lease;
pub use member::{Member, not_here};
pub use members::{Members, Step};
pub use replica::Progress;
pub use retention::Retention;
pub use transfers::{Direction, SnapshotSettings, TransferStatus, Transfers};
pub use types::{Command, Machine, NodeId, State};
