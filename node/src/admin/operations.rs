//! Operations that the admin port needs of the node.

use futures_util::future::BoxFuture;

use super::errors::{NodeError, RecoveryError, RegionError};
use super::node_change::{DecommissionReport, NamedNode, NodeChange};
use super::recovery_report::{RecoveryReport, RecoveryScope};
use crate::backup::{BackupRun, BackupStartError};
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
    /// Begins a backup of the region at a URL; unless it is to be a new one, it goes on with the
    /// one that was interrupted there.
    fn start_backup(&self, to: &str, is_new: bool) -> Result<BackupRun, BackupStartError>;
    /// Reports what this node can recover by force, and what may be lost.
    fn recovery_report(&self, scope: RecoveryScope) -> BoxFuture<'_, RecoveryReport>;
    /// Recovers groups by force if `confirmation` is that of the report: the next start of this
    /// node carries it out, and the node stops.
    fn recover(
        &self,
        scope: RecoveryScope,
        confirmation: String,
    ) -> BoxFuture<'_, Result<RecoveryReport, RecoveryError>>;
}
