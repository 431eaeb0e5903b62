//! Takes part in the recovery of this node's region, which another survivor coordinates.

use std::path::PathBuf;
use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, rejoin_call::Action, reply};

use super::pending_recovery::RecoveryStore;
use super::restart_request::RestartRequest;
use crate::cluster::LocalGroups;
use crate::cluster::recovery_file::{PendingRecovery, RecoveryStep};
use crate::cluster::rejoin_scope::{RejoinScope, ShardScope};
use crate::meta::NodeState;
use crate::types::NodeId;

/// Participant in the recovery of this node's region.
pub(crate) struct RejoinParticipant {
    groups: Arc<LocalGroups>,
    store: RecoveryStore,
}

impl RejoinParticipant {
    /// Creates the participant. What the next start is to do is stored in `data_dir`; `restart`
    /// stops the node.
    pub(crate) fn new(
        groups: Arc<LocalGroups>,
        data_dir: PathBuf,
        restart: RestartRequest,
    ) -> Self {
        let store = RecoveryStore { data_dir, restart };
        Self { groups, store }
    }

    /// Handles the call of node `from`, which coordinates the recovery.
    pub(crate) async fn handle(&self, from: NodeId, call: pb::RejoinCall) -> reply::Body {
        let done = if self.is_of_this_region(from) {
            self.act(call).await
        } else {
            Err("only a node of the region recovers it".to_owned())
        };
        let refused = done.err().unwrap_or_default();
        reply::Body::Rejoin(pb::RejoinReply { refused })
    }

    fn is_of_this_region(&self, node: NodeId) -> bool {
        let topology = self.groups.catalog.topology();
        let region = self.groups.identity.region_number;
        let known = topology.node(node);
        known.is_some_and(|node| node.region == region && node.state != NodeState::Removed)
    }

    async fn act(&self, call: pb::RejoinCall) -> Result<(), String> {
        match call.action() {
            Action::Prepare => self.prepare(call).await,
            Action::Cancel => {
                tracing::warn!("recovery of this region withdrawn");
                let withdrawn = self.store.withdraw_export().await;
                withdrawn.map_err(|error| error.to_string())
            }
            Action::Restart => {
                let stored = self.store.is_export_stored().await;
                if !stored.map_err(|error| error.to_string())? {
                    return Err("it was not prepared".to_owned());
                }
                let region = &self.groups.identity.region;
                self.store.restart.request(format!(
                    "stopped to recover region {region}, which joins the other regions anew: \
                     start the node again, and it carries that out first"
                ));
                Ok(())
            }
            Action::Unspecified => Err("it is of another version".to_owned()),
        }
    }

    async fn prepare(&self, call: pb::RejoinCall) -> Result<(), String> {
        let checked = self.store.check_none_pending().await;
        checked.map_err(|error| error.to_string())?;
        let identity = &self.groups.identity;
        let shards = call.shards.iter().map(|shard| ShardScope {
            is_imported: shard.imported,
            watermark: shard.watermark,
        });
        let scope = RejoinScope {
            region: identity.region_number,
            shards: shards.collect(),
        };
        let pending = PendingRecovery {
            node: identity.node_id,
            step: RecoveryStep::RegionExport {
                region: identity.region.clone(),
                join: call.join,
            },
            lost: call.lost.into_iter().map(NodeId::from).collect(),
        };
        tracing::warn!("operator recovers this region: the next start of this node takes part");
        let stored = self.store.store(pending, Some(scope)).await;
        stored.map_err(|error| error.to_string())
    }
}
