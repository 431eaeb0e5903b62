//! The cluster as this node sees it: who the node is, which others live, and which nodes should
//! hold what.
//!
//! | file | what it does |
//! | --- | --- |
//! | `identity` | who this node is |
//! | `joining` | how it got into its cluster |
//! | `hearsay` | what others say of the cluster to a node that the metadata doesn't reach |
//! | `admission` | how it takes others in |
//! | `vitals` | which nodes live, and how far their clocks are apart |
//! | `placement` | plans which nodes hold what |
//! | `keeper` | carries the plans out |
//! | `decommission` | what becomes of a region without a node |
//! | `removal` | what a node still holds that leaves, and its removal |
//! | `disks` | what groups take while disks fill up |
//! | `roster` | the nodes of the cluster in a file, for when the data can't be read |
//! | `comparing` | whether replicas hold the same |

mod admission;
mod comparing;
mod decommission;
#[cfg(test)]
mod decommission_tests;
mod disks;
mod hearsay;
mod identity;
mod joining;
mod keeper;
pub mod placement;
mod removal;
mod roster;
mod vitals;

pub use admission::{Admission, Refresher};
pub use comparing::{Comparer, marked};
pub use decommission::{Obstacle, Outlook, Survival, outlook};
pub use identity::{Identity, IdentityError, Wanted, replace_file};
pub use joining::{Application, JoinError, check_membership, join};
pub use keeper::{Declined, Keeper, Proposer};
pub use removal::GroupView;
pub use roster::{Listed, Roster};
pub use vitals::{MAX_OFFSET, Vital, Vitals};
