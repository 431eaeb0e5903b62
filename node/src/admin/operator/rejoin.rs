//! Recovers a region beside others: it leaves the cluster, and all of its survivors join the other
//! regions anew, with what only they have.
//!
//! One node coordinates that:
//! 1. it decides what each survivor imports of each shard (`rejoin_scopes`);
//! 2. it prepares all survivors, and itself: each stores what its next start is to do. If one
//!    can't, all withdraw it;
//! 3. it starts the removal of the region, from where on none of the survivors serves any more;
//! 4. it has all survivors stop. One that doesn't hear of it stops once it learns of the removal.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, call, meta_command::Kind as Command, rejoin_call, reply};
use futures_util::future::join_all;

use super::pending_recovery::RecoveryStore;
use super::rejoin_scopes::{ShardSurvivors, scopes_of};
use crate::admin::RecoveryError;
use crate::cluster::LocalGroups;
use crate::cluster::recovery_file::PendingRecovery;
use crate::cluster::rejoin_scope::{RejoinScope, ShardScope};
use crate::rpc::StreamKind;
use crate::service::{DirectoryError, MetadataClient};
use crate::types::NodeId;

/// Time for a survivor to store what its next start is to do.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a survivor to acknowledge that it stops.
const RESTART_TIMEOUT: Duration = Duration::from_secs(2);

/// Recovery of a region, as the node coordinates it that the operator has called.
pub(super) struct RegionRejoin {
    pub groups: Arc<LocalGroups>,
    pub metadata: MetadataClient,
    pub store: RecoveryStore,
    /// The other survivors.
    pub survivors: Vec<NodeId>,
    /// What all survivors have, by shard.
    pub shards: Vec<ShardSurvivors>,
    /// Addresses of nodes of the other regions.
    pub join: Vec<String>,
}

impl RegionRejoin {
    /// Prepares all survivors, removes the region, and has the other survivors stop. `pending` is
    /// for the next start of this node.
    pub(super) async fn run(&self, pending: PendingRecovery) -> Result<(), RecoveryError> {
        let prepared = self.prepare(pending).await;
        let removed = match prepared {
            Ok(()) => self.remove_region().await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            self.cancel().await;
            return Err(error);
        }
        self.send_all(rejoin_call::Action::Restart, RESTART_TIMEOUT)
            .await;
        Ok(())
    }

    async fn prepare(&self, pending: PendingRecovery) -> Result<(), RecoveryError> {
        let lost: Vec<u64> = pending.lost.iter().copied().map(u64::from).collect();
        let prepared = self.survivors.iter().map(|node| {
            let call = pb::RejoinCall {
                action: rejoin_call::Action::Prepare.into(),
                join: self.join.clone(),
                lost: lost.clone(),
                shards: scopes_of(*node, &self.shards)
                    .into_iter()
                    .map(scope_to_pb)
                    .collect(),
            };
            self.send(*node, call, PREPARE_TIMEOUT)
        });
        for prepared in join_all(prepared).await {
            prepared?;
        }
        let scope = RejoinScope {
            region: self.groups.identity.region_number,
            shards: scopes_of(pending.node, &self.shards),
        };
        self.store.store(pending, Some(scope)).await
    }

    /// Starts the removal of the region.
    async fn remove_region(&self) -> Result<(), RecoveryError> {
        let name = self.groups.identity.region.clone();
        let command = Command::RemoveRegion(pb::RemoveRegion { name });
        match self.metadata.propose(command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(RecoveryError::Refused(refusal.to_string())),
            // The nodes join anew only once their old numbers were removed.
            Err(DirectoryError::UnknownOutcome) => {
                tracing::warn!(
                    region = self.groups.identity.region,
                    "the removal of this region may not have started: if its nodes wait to be \
                     admitted after their start, use `cloudkv-node admin remove-region` at a node \
                     of another region"
                );
                Ok(())
            }
            Err(error) => Err(RecoveryError::Unavailable(error.to_string())),
        }
    }

    /// Withdraws what all survivors have stored.
    async fn cancel(&self) {
        if let Err(error) = self.store.withdraw_export().await {
            tracing::error!(
                %error,
                "recovery not withdrawn: remove recovery.json before the next start"
            );
        }
        self.send_all(rejoin_call::Action::Cancel, PREPARE_TIMEOUT)
            .await;
    }

    /// Sends an action to all other survivors; logs which of them didn't carry it out.
    async fn send_all(&self, action: rejoin_call::Action, timeout: Duration) {
        let sent = self.survivors.iter().map(|node| {
            let call = pb::RejoinCall {
                action: action.into(),
                ..Default::default()
            };
            self.send(*node, call, timeout)
        });
        for error in join_all(sent).await.into_iter().filter_map(Result::err) {
            let action = action.as_str_name();
            tracing::warn!(action, %error, "survivor of the region not reached");
        }
    }

    async fn send(
        &self,
        node: NodeId,
        call: pb::RejoinCall,
        timeout: Duration,
    ) -> Result<(), RecoveryError> {
        let (peers, body) = (&self.groups.peers, call::Body::Rejoin(call));
        let reply = peers.call(node, StreamKind::Forwarded, body, timeout).await;
        let refused = match reply {
            Ok(reply::Body::Rejoin(reply)) if reply.refused.is_empty() => return Ok(()),
            Ok(reply::Body::Rejoin(reply)) => reply.refused,
            Ok(_) => "it is of an earlier version".to_owned(),
            Err(_) => "it doesn't answer".to_owned(),
        };
        let name = self.groups.node_name(node);
        Err(RecoveryError::Unavailable(format!(
            "{name} runs, and can't be recovered together with this node ({refused}): stop it if \
             it is to be lost"
        )))
    }
}

fn scope_to_pb(scope: ShardScope) -> pb::RejoinedShard {
    pb::RejoinedShard {
        imported: scope.is_imported,
        watermark: scope.watermark,
    }
}
