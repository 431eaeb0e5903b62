//! Carries out the operations of the admin port on a running node.
//!
//! | file | what it does |
//! | --- | --- |
//! | `node_changes` | decommissions, recommissions and replaces nodes |
//! | `node_lookup` | finds the node that an operator names |
//! | `replacement_check` | checks whether other nodes can replace a lost one |
//! | `decommission_report` | reports the consequences of decommissioning a node |
//! | `region_removal` | removes a lost region |
//! | `node_loss` | waits until a node that was just lost counts as such |
//! | `metadata_voters` | describes the metadata's voters while they have no leader |

mod decommission_report;
mod metadata_voters;
mod node_changes;
mod node_lookup;
mod node_loss;
mod region_removal;
mod replacement_check;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::node_changes::NodeChanger;
use self::region_removal::RegionRemover;
use super::{DecommissionReport, NamedNode, NodeChange, NodeError, Operations, RegionError};
use crate::cluster::LocalGroups;
use crate::geo::{GeoReplication, RegionComparison, VerifyError};
use crate::service::{
    BucketId, Directory, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms,
};

/// Operations of the admin port on a running node.
pub(crate) struct Operator {
    directory: Directory,
    nodes: NodeChanger,
    regions: RegionRemover,
    geo: Arc<GeoReplication>,
}

impl Operator {
    /// Creates the operations on a node with these groups.
    pub(crate) fn new(
        directory: Directory,
        groups: Arc<LocalGroups>,
        geo: Arc<GeoReplication>,
    ) -> Self {
        let metadata = directory.metadata().clone();
        Self {
            nodes: NodeChanger {
                metadata: metadata.clone(),
                groups: groups.clone(),
            },
            regions: RegionRemover { metadata, groups },
            directory,
            geo,
        }
    }
}

impl Operations for Operator {
    fn plans(&self) -> Vec<(Plan, PlanTerms)> {
        self.directory.plans()
    }

    fn set_plan_limits(
        &self,
        plan: Plan,
        changes: PlanChanges,
    ) -> BoxFuture<'_, Result<PlanTerms, PlanError>> {
        Box::pin(self.directory.set_plan_limits(plan, changes))
    }

    fn set_bucket_plan(
        &self,
        bucket: BucketId,
        plan: Plan,
    ) -> BoxFuture<'_, Result<(), DirectoryError>> {
        Box::pin(self.directory.set_bucket_plan(bucket, plan))
    }

    fn change_node(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> BoxFuture<'_, Result<NamedNode, NodeError>> {
        Box::pin(self.nodes.apply(name, change, confirmed))
    }

    fn decommission_report(
        &self,
        name: String,
    ) -> BoxFuture<'_, Result<DecommissionReport, NodeError>> {
        Box::pin(self.nodes.decommission_report(name))
    }

    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>> {
        Box::pin(self.regions.remove(name))
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<RegionComparison, VerifyError>> {
        Box::pin(self.geo.verify(shard))
    }
}
