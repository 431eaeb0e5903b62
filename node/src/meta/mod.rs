//! Metadata: accounts, buckets, plans, regions, nodes and placements. It is one Raft group for the
//! whole cluster.
//!
//! Every node has all of it in memory, in the [`Catalog`], so that a key request never waits for
//! it.
//!
//! | file | content |
//! | --- | --- |
//! | `state_machine` | dispatch of commands |
//! | `state` | the replicated state: rows, and what readers see of them |
//! | `command_refusal` | reasons to refuse a command |
//! | `feature_level` | feature levels: what this version supports, and what all nodes do |
//! | `bootstrap` | the first command of a cluster |
//! | `buckets` | commands on buckets and accounts |
//! | `regions` | commands on regions |
//! | `restore` | restores the metadata of a backup |
//! | `plans` | the offers of each plan |
//! | `nodes`, `node_refusal` | commands on nodes and placements, and reasons to refuse them |
//! | `load` | reads the state's rows |
//! | `catalog` | the metadata as readers see it |
//! | `catalog_status` | status and metrics |
//! | `topology`, `cluster_view` | regions, nodes and placements, as readers see them |
//! | `codec` | responses to commands, as nodes send them to each other |
//! | `usage` | this node's counters of a bucket |

mod bootstrap;
mod buckets;
mod catalog;
mod catalog_status;
mod cluster_view;
pub(crate) mod codec;
mod command_refusal;
mod feature_level;
mod load;
mod node_refusal;
mod nodes;
#[cfg(test)]
mod nodes_tests;
mod plans;
mod regions;
mod restore;
mod state;
mod state_machine;
#[cfg(test)]
mod test_fixture;
mod topology;
#[cfg(test)]
mod topology_tests;
mod usage;

pub(crate) use catalog::{Bucket, Catalog};
pub(crate) use command_refusal::{CommandRefusal, CommandResult};
pub(crate) use feature_level::{DEFAULT_TTL_LEVEL, MAX_FEATURE_LEVEL, supported_level};
pub(crate) use node_refusal::NodeRefusal;
#[cfg(test)]
pub(crate) use plans::BucketLimits;
pub(crate) use plans::{
    MAX_KEY_BYTES, MAX_VALUE_BYTES, PlanTerms, access_to_pb, default_plans, plan_to_pb,
};
pub(crate) use state::MetaState;
pub(crate) use state_machine::Meta;
pub(crate) use topology::{NodeInfo, NodeState, Placement, RegionInfo, Topology};
