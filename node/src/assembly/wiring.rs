//! Wiring of the node's components: replication, handlers of calls, and the proposal of the
//! cluster's own commands.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answering::Answers;
use super::groups::{Groups, MESSAGE_BYTES};
use super::places::Places;
use crate::api::Api;
use crate::cluster::{Admission, Declined, Proposer, Refresher};
use crate::geo::Geo;
use crate::meta::{self, NodeRefusal, Refusal};
use crate::rpc::{Answering, Leaving, Runtimes};
use crate::service::Service;

/// Builds the replication to and from other regions.
pub(super) fn geo(groups: &Groups, service: &Service) -> Geo {
    let identity = &groups.identity;
    Geo {
        me: pb::Peer {
            region: identity.region_number,
            incarnation: identity.incarnation,
        },
        shards: groups.shards.iter().cloned().collect(),
        catalog: groups.catalog.clone(),
        peers: groups.peers.clone(),
        vitals: groups.vitals.clone(),
        clock: groups.clock.clone(),
        ledger: groups.ledger.clone(),
        propose: proposer(service),
        budget: groups.budget.clone(),
        pace: groups.pace.clone(),
        comparing: Arc::new(Semaphore::new(1)),
    }
}

/// Builds the handlers of other nodes' calls.
pub(super) fn answering(
    groups: &Arc<Groups>,
    service: &Service,
    (geo, api): (Arc<Geo>, Arc<Api>),
    runtimes: Runtimes,
    stop: &CancellationToken,
) -> Answering {
    let identity = &groups.identity;
    let admission = Admission {
        identity: identity.clone(),
        catalog: groups.catalog.clone(),
        propose: proposer(service),
        refresh: refresher(service),
    };
    let handlers = Answers {
        members: groups.members(),
        vitals: groups.vitals.clone(),
        service: service.clone(),
        geo,
        admission: Arc::new(admission),
        places: Places {
            groups: groups.clone(),
            stop: stop.clone(),
        },
        api,
    };
    Answering {
        identity: pb::IdentifyResponse {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            region: identity.region.clone(),
            shards: u32::from(identity.shards),
            level: meta::LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            removed: false,
            nodes: Vec::new(),
        },
        handler: Arc::new(handlers),
        runtimes,
        message_bytes: MESSAGE_BYTES,
        leaving: Leaving::default(),
        peers: groups.peers.clone(),
        tls: groups.place.dialer.tls(),
    }
}

/// Builds the function that lets the metadata catch up with its leader.
fn refresher(service: &Service) -> Refresher {
    let directory = service.directory.clone();
    Arc::new(move || {
        let metadata = directory.metadata().clone();
        Box::pin(async move { metadata.barrier().await.is_ok() })
    })
}

/// Builds the function that proposes the cluster's own commands, in the same way as all others.
pub(super) fn proposer(service: &Service) -> Proposer {
    let directory = service.directory.clone();
    Arc::new(move |command| {
        let metadata = directory.metadata().clone();
        Box::pin(async move {
            match metadata.propose(command).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refusal)) => {
                    // The node with that address may be lost, and soon be replaced.
                    let is_address_taken =
                        matches!(refusal, Refusal::Node(NodeRefusal::AddressTaken { .. }));
                    Err(Declined {
                        reason: refusal.to_string(),
                        is_final: !is_address_taken,
                        needs_person: is_address_taken,
                    })
                }
                Err(error) => Err(Declined {
                    reason: error.to_string(),
                    is_final: false,
                    needs_person: false,
                }),
            }
        })
    })
}
