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
//! | `recovery` | recovers groups by force that have lost their majority for good |
//! | `recovery_survey`, `recovery_facts` | what this node and others know for that |
//! | `recovery_decision`, `recovery_plan` | whether it is possible, and how |
//! | `recovery_text` | the report on it, in words |
//! | `pending_recovery` | stores what the next start is to do |
//! | `restart_request` | stops the process so that its next start does it |
//! | `rejoin` | coordinates the survivors of a region that joins the others anew |
//! | `rejoin_participant` | takes part in that |
//! | `rejoin_survey`, `rejoin_scopes` | which survivor imports what afterwards |

mod decommission_report;
mod metadata_voters;
mod node_changes;
mod node_lookup;
mod node_loss;
mod pending_recovery;
mod recovery;
mod recovery_decision;
mod recovery_facts;
mod recovery_plan;
mod recovery_survey;
mod recovery_text;
mod region_removal;
mod rejoin;
mod rejoin_participant;
mod rejoin_scopes;
mod rejoin_survey;
mod replacement_check;
mod restart_request;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use self::node_changes::NodeChanger;
use self::pending_recovery::RecoveryStore;
use self::recovery::GroupRecoverer;
use self::region_removal::RegionRemover;
pub(crate) use self::rejoin_participant::RejoinParticipant;
pub(crate) use self::restart_request::RestartRequest;
use super::{
    DecommissionReport, NamedNode, NodeChange, NodeError, Operations, RecoveryError,
    RecoveryReport, RecoveryScope, RegionError,
};
use crate::backup::{BackupRun, BackupStartError, Backups};
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
    recoverer: Arc<GroupRecoverer>,
    geo: Arc<GeoReplication>,
    backups: Backups,
}

impl Operator {
    /// Creates the operations on a node with these groups. A recovery by force is stored in
    /// `data_dir`, and stops the node by `restart`.
    pub(crate) fn new(
        directory: Directory,
        groups: Arc<LocalGroups>,
        geo: Arc<GeoReplication>,
        backups: Backups,
        (data_dir, restart): (PathBuf, RestartRequest),
    ) -> Self {
        let metadata = directory.metadata().clone();
        Self {
            nodes: NodeChanger {
                metadata: metadata.clone(),
                groups: groups.clone(),
            },
            recoverer: Arc::new(GroupRecoverer {
                metadata: metadata.clone(),
                groups: groups.clone(),
                geo: geo.clone(),
                store: RecoveryStore { data_dir, restart },
                confirming: Mutex::default(),
            }),
            regions: RegionRemover { metadata, groups },
            directory,
            geo,
            backups,
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

    fn start_backup(&self, to: &str, is_new: bool) -> Result<BackupRun, BackupStartError> {
        self.backups.start(to, is_new)
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<RegionComparison, VerifyError>> {
        Box::pin(self.geo.verify(shard))
    }

    fn recovery_report(&self, scope: RecoveryScope) -> BoxFuture<'_, RecoveryReport> {
        Box::pin(self.recoverer.report(scope))
    }

    fn recover(
        &self,
        scope: RecoveryScope,
        confirmation: String,
    ) -> BoxFuture<'_, Result<RecoveryReport, RecoveryError>> {
        Box::pin(self.recoverer.clone().recover(scope, confirmation))
    }
}
