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
mod consistency_check;
mod decommission;
#[cfg(test)]
mod decommission_tests;
mod disks;
mod failure_detector;
mod identity;
mod joining;
mod node_list;
mod node_removal;
mod peer_discovery;
pub(crate) mod placement;
mod placement_controller;

pub(crate) use admission::{Admission, Refresher};
pub(crate) use consistency_check::{ConsistencyChecker, read_marker};
pub(crate) use decommission::assess_decommission;
pub(crate) use failure_detector::{FailureDetector, MAX_CLOCK_OFFSET};
pub(crate) use identity::{Identity, IdentityError, RequestedIdentity, replace_file};
pub(crate) use joining::{JoinError, JoinSettings, check_membership, join};
#[cfg(test)]
pub(crate) use node_list::ListedNode;
pub(crate) use node_list::NodeList;
pub(crate) use node_removal::MembershipView;
pub(crate) use placement_controller::{MetadataProposer, PlacementController, ProposalError};
