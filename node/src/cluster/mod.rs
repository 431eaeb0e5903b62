//! The cluster from this node's view: identity, membership, failure detection, and placement.
//!
//! | file | task |
//! | --- | --- |
//! | `identity` | identity of this node |
//! | `joining` | joins this node to a cluster |
//! | `peer_discovery` | asks other nodes about the cluster when the metadata is out of reach |
//! | `admission` | admits other nodes |
//! | `failure_detector` | decides which nodes are alive, and compares their clocks |
//! | `local_groups` | groups of this node, and what it knows of the nodes of the others |
//! | `readiness` | whether this node can answer for all shards, and why not |
//! | `topology_publisher` | the topology that routers get |
//! | `placement` | plans which nodes have which replicas |
//! | `placement_controller` | carries the plans out |
//! | `decommission` | assesses the decommissioning of a node |
//! | `node_removal` | finds the groups that still need a node, and removes decommissioned nodes |
//! | `disks` | limits what groups accept while disks fill up |
//! | `node_list` | stores the list of nodes in a file, for when the data can't be read |
//! | `node_list_writer` | keeps that file up to date |
//! | `consistency_check` | compares replicas |
//! | `rejoin_scope` | what a node imports again after its region has joined anew |
//! | `recovery_file` | stores a recovery by force that the next start carries out |
//! | `status` | status and metrics of the cluster as this node sees it |
//! | `availability`, `loss_tolerance`, `node_status` | parts of the status |

mod admission;
mod availability;
mod consistency_check;
mod decommission;
#[cfg(test)]
mod decommission_tests;
mod disks;
mod failure_detector;
mod identity;
mod joining;
mod local_groups;
mod loss_tolerance;
mod node_list;
mod node_list_writer;
mod node_removal;
mod node_status;
mod peer_discovery;
pub(crate) mod placement;
mod placement_controller;
mod readiness;
pub(crate) mod recovery_file;
pub(crate) mod rejoin_scope;
mod status;
mod topology_publisher;

pub(crate) use admission::{Admission, Refresher};
pub(crate) use availability::is_majority_alive;
pub(crate) use consistency_check::{ConsistencyChecker, read_marker, remove_marker, write_marker};
pub(crate) use decommission::assess_decommission;
pub(crate) use failure_detector::{FailureDetector, MAX_CLOCK_OFFSET};
pub(crate) use identity::{Identity, IdentityError, RequestedIdentity, replace_file};
pub(crate) use joining::{JoinError, JoinProgress, JoinSettings, check_membership, join};
pub(crate) use local_groups::LocalGroups;
#[cfg(test)]
pub(crate) use node_list::ListedNode;
pub(crate) use node_list::NodeList;
pub(crate) use node_list_writer::NodeListWriter;
pub(crate) use node_removal::MembershipView;
pub(crate) use placement_controller::{MetadataProposer, PlacementController, ProposalError};
pub(crate) use readiness::{MetadataState, ReadinessProbe};
pub(crate) use status::{cluster_status, write_cluster_metrics};
pub(crate) use topology_publisher::TopologyPublisher;
