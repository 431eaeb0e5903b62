//! The cluster from this node's view: identity, membership, failure detection, and placement.
//!
//! | file | task |
//! | --- | --- |
//! | `identity` | identity of this node |
//! | `joining` | joins this node to a cluster |
//! | `peer_discovery` | asks other nodes about the cluster when the metadata is out of reach |
//! | `admission` | admits other nodes |
//! | `failure_detector` | decides which nodes are alive, and compares their clocks |
//! | `placement` | plans which nodes have which replicas |
//! | `placement_controller` | carries the plans out |
//! | `decommission` | assesses the decommissioning of a node |
//! | `node_removal` | finds the groups that still need a node, and removes decommissioned nodes |
//! | `disks` | limits what groups accept while disks fill up |
//! | `node_list` | stores the list of nodes in a file, for when the data can't be read |
//! | `consistency_check` | compares replicas |

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
