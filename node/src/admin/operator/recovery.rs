//! Recovers groups by force that have lost their majority for good.
//!
//! A running node only decides, and stores what its next start is to do (`cluster::recovery_file`):
//! logs and members change while no group runs. Where the metadata has a leader, the lost nodes, or
//! the region, are removed through it first, so that they are refused for ever.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use tokio::sync::Mutex;

use super::pending_recovery::RecoveryStore;
use super::recovery_decision::{RecoveryDecision, decide};
use super::recovery_survey::survey;
use super::rejoin::RegionRejoin;
use super::rejoin_survey::survey_survivors;
use crate::admin::{RecoveryError, RecoveryReport, RecoveryScope};
use crate::cluster::LocalGroups;
use crate::cluster::recovery_file::{PendingRecovery, RecoveryStep};
use crate::geo::GeoReplication;
use crate::meta::NodeState;
use crate::service::MetadataClient;
use crate::types::NodeId;

/// Recovers groups of this node by force.
pub(super) struct GroupRecoverer {
    pub metadata: MetadataClient,
    pub groups: Arc<LocalGroups>,
    pub geo: Arc<GeoReplication>,
    pub store: RecoveryStore,
    /// Held while a recovery is confirmed.
    pub confirming: Mutex<()>,
}

impl GroupRecoverer {
    /// Reports what can be recovered here, and what may be lost.
    pub(super) async fn report(&self, scope: RecoveryScope) -> RecoveryReport {
        self.decide(scope).await.report
    }

    /// Stores the recovery for the next start, and stops the node, if `confirmation` is that of
    /// the report. Goes on if the future is dropped: what is stored is also carried out.
    pub(super) async fn recover(
        self: Arc<Self>,
        scope: RecoveryScope,
        confirmation: String,
    ) -> Result<RecoveryReport, RecoveryError> {
        let recovery = tokio::spawn(async move { self.confirm(scope, &confirmation).await });
        let failed = |error: tokio::task::JoinError| RecoveryError::Unavailable(error.to_string());
        recovery.await.map_err(failed)?
    }

    async fn confirm(
        &self,
        scope: RecoveryScope,
        confirmation: &str,
    ) -> Result<RecoveryReport, RecoveryError> {
        let _alone = self.confirming.lock().await;
        self.store.check_none_pending().await?;
        let decision = self.decide(scope).await;
        let Some(step) = decision.step else {
            let refusal = decision.report.refusal.unwrap_or_default();
            return Err(RecoveryError::NotRecoverable(refusal));
        };
        if confirmation.trim() != decision.report.confirmation {
            let expected = decision.report.confirmation;
            return Err(RecoveryError::WrongConfirmation { expected });
        }
        let pending = PendingRecovery {
            node: self.groups.identity.node_id,
            step,
            lost: decision.lost.into_iter().collect(),
        };
        let survivors = decision.survivors.into_iter().collect();
        self.prepare(pending, survivors).await?;
        self.store.restart.request(format!(
            "stopped to {}: start the node again, and it carries that out first",
            decision.report.confirmation
        ));
        Ok(decision.report)
    }

    async fn decide(&self, scope: RecoveryScope) -> RecoveryDecision {
        decide(&survey(&self.groups, &self.metadata, scope).await, scope)
    }

    /// Removes the lost nodes, or the region, from the cluster if that has its metadata, and stores
    /// what the next start is to do, at the survivors that join anew, too.
    async fn prepare(
        &self,
        pending: PendingRecovery,
        survivors: Vec<NodeId>,
    ) -> Result<(), RecoveryError> {
        match pending.step.clone() {
            RecoveryStep::Metadata | RecoveryStep::RegionImport { .. } => {
                self.store.store(pending, None).await
            }
            RecoveryStep::Shards { .. } => {
                self.remove_nodes(&pending.lost).await?;
                self.store.store(pending, None).await
            }
            RecoveryStep::RegionExport { join, .. } | RecoveryStep::RegionJoin { join, .. } => {
                let shards = survey_survivors(&self.groups, &self.geo, &survivors).await;
                let rejoin = RegionRejoin {
                    groups: self.groups.clone(),
                    metadata: self.metadata.clone(),
                    store: self.store.clone(),
                    survivors,
                    shards,
                    join,
                };
                rejoin.run(pending).await
            }
        }
    }

    /// Removes lost nodes from the cluster. One that is unknown or removed already is left out.
    async fn remove_nodes(&self, lost: &[NodeId]) -> Result<(), RecoveryError> {
        for node in lost {
            if !self.is_present(*node) {
                continue;
            }
            let command = Command::SetNodeState(pb::SetNodeState {
                node: (*node).into(),
                state: NodeState::Removed.to_pb().into(),
                ..Default::default()
            });
            match self.metadata.propose(command).await {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => return Err(RecoveryError::Refused(refusal.to_string())),
                Err(error) => return Err(RecoveryError::Unavailable(error.to_string())),
            }
        }
        Ok(())
    }
    /// Returns whether a node is known, and wasn't removed.
    fn is_present(&self, node: NodeId) -> bool {
        let topology = self.groups.catalog.topology();
        let known = topology.node(node);
        known.is_some_and(|node| node.state != NodeState::Removed)
    }
}
