//! Wiring of the node's components: replication, handlers of calls, and the proposal of the
//! cluster's own commands.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::dispatch::Handlers;
use super::groups::{Groups, MAX_MESSAGE_BYTES};
use super::topology_publisher::TopologyPublisher;
use crate::api::Api;
use crate::cluster::{Admission, MetadataProposer, ProposalError, Refresher};
use crate::geo::GeoReplication;
use crate::meta::{self, CommandRefusal, NodeRefusal};
use crate::rpc::{RpcRuntimes, RpcServerContext, StreamDrain};
use crate::service::Service;

/// Builds the replication to and from other regions.
pub(super) fn build_replication(groups: &Groups, service: &Service) -> GeoReplication {
    let identity = &groups.identity;
    GeoReplication {
        local: pb::Peer {
            region: identity.region_number,
            incarnation: identity.incarnation,
        },
        shards: groups.shards.iter().cloned().collect(),
        catalog: groups.catalog.clone(),
        peers: groups.peers.clone(),
        failure_detector: groups.failure_detector.clone(),
        clock: groups.clock.clone(),
        status: groups.replication_status.clone(),
        propose: metadata_proposer(service),
        retention_budget: groups.retention_budget.clone(),
        background: groups.background.clone(),
        digest_permit: Arc::new(Semaphore::new(1)),
    }
}

/// Builds the handlers of other nodes' calls.
pub(super) fn build_rpc_handlers(
    groups: &Arc<Groups>,
    service: &Service,
    (geo, api): (Arc<GeoReplication>, Arc<Api>),
    runtimes: RpcRuntimes,
    stop: &CancellationToken,
) -> RpcServerContext {
    let identity = &groups.identity;
    let admission = Admission {
        identity: identity.clone(),
        catalog: groups.catalog.clone(),
        propose: metadata_proposer(service),
        refresh: metadata_refresher(service),
    };
    let handlers = Handlers {
        members: groups.members(),
        failure_detector: groups.failure_detector.clone(),
        service: service.clone(),
        geo,
        admission: Arc::new(admission),
        topology_publisher: TopologyPublisher {
            groups: groups.clone(),
            stop: stop.clone(),
        },
        api,
    };
    RpcServerContext {
        identity: pb::IdentifyResponse {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            region: identity.region.clone(),
            shards: u32::from(identity.shards),
            level: meta::MAX_FEATURE_LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            removed: false,
            nodes: Vec::new(),
        },
        handler: Arc::new(handlers),
        runtimes,
        message_bytes: MAX_MESSAGE_BYTES,
        drain: StreamDrain::default(),
        peers: groups.peers.clone(),
        tls: groups.endpoint.dialer.tls(),
    }
}

/// Builds the function that lets the metadata catch up with its leader.
fn metadata_refresher(service: &Service) -> Refresher {
    let directory = service.directory.clone();
    Arc::new(move || {
        let metadata = directory.metadata().clone();
        Box::pin(async move { metadata.barrier().await.is_ok() })
    })
}

/// Builds the function that proposes the cluster's own commands, in the same way as all others.
pub(super) fn metadata_proposer(service: &Service) -> MetadataProposer {
    let directory = service.directory.clone();
    Arc::new(move |command| {
        let metadata = directory.metadata().clone();
        Box::pin(async move {
            match metadata.propose(command).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refusal)) => {
                    // The node with that address may be lost, and soon be replaced.
                    let is_address_taken = matches!(
                        refusal,
                        CommandRefusal::Node(NodeRefusal::AddressTaken { .. })
                    );
                    Err(ProposalError {
                        reason: refusal.to_string(),
                        is_final: !is_address_taken,
                        needs_operator: is_address_taken,
                    })
                }
                Err(error) => Err(ProposalError {
                    reason: error.to_string(),
                    is_final: false,
                    needs_operator: false,
                }),
            }
        })
    })
}
