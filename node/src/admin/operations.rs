//! Operations that the admin port needs of the node.

use futures_util::future::BoxFuture;

use super::errors::{NodeError, RegionError};
use super::node_change::{DecommissionReport, NamedNode, NodeChange};
use crate::geo::{RegionComparison, VerifyError};
use crate::service::{BucketId, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms};

/// Operations that the admin port needs of the node.
pub trait Operations: Send + Sync + 'static {
    /// Terms of all plans.
    fn plans(&self) -> Vec<(Plan, PlanTerms)>;
    /// Changes a plan's limits, and returns its terms.
    fn set_plan_limits(
        &self,
        plan: Plan,
        changes: PlanChanges,
    ) -> BoxFuture<'_, Result<PlanTerms, PlanError>>;
    /// Assigns a plan to a bucket.
    fn set_bucket_plan(
        &self,
        bucket: BucketId,
        plan: Plan,
    ) -> BoxFuture<'_, Result<(), DirectoryError>>;
    /// Changes a node's membership; `name` is its number, its name or its `rpc` address. Without
    /// `confirmed`, it is refused if the region would survive less afterwards.
    fn change_node(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> BoxFuture<'_, Result<NamedNode, NodeError>>;
    /// Reports the consequences of decommissioning a node, and the progress.
    fn decommission_report(
        &self,
        name: String,
    ) -> BoxFuture<'_, Result<DecommissionReport, NodeError>>;
    /// Removes a region from the cluster.
    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>>;
    /// Compares a shard across all regions.
    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<RegionComparison, VerifyError>>;
}
