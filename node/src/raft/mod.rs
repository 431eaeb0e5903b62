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
//! | `snapshot` | a group's rows as a stream of chunks, and their way into a new generation |
//! | `repair` | a replica whose state the disk has damaged, replaced by a copy of the leader's |
//! | `acks` | when the other members last acknowledged this leader |
//! | `lease` | the answer to "may this node answer a read now?", without a queue |
//! | `group` | a running group: start, propose, purge, stop |
//! | `leading` | who leads: the lease kept true, leadership handed over |
//! | `members` | changes of a group's members, step by step |
//! | `network` | the other members, as this one calls them |
//! | `commits` | news of commits that goes with the next entries |
//! | `member` | what this member answers to them |

mod acks;
mod codec;
mod commits;
mod group;
mod leading;
mod lease;
mod log_store;
mod member;
mod members;
mod network;
mod repair;
mod replica;
mod snapshot;
mod types;

#[cfg(test)]
mod suite_tests;

pub use group::{Group, GroupSettings, Proposal, ProposeError, Status};
pub use lease::Lease;
pub use member::{Member, not_here};
pub use members::{Members, Step};
pub use replica::Progress;
pub use types::{Command, Machine, NodeId, State};
