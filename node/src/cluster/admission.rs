//! How a node takes others into the cluster.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use tonic::Status;

use super::identity::Identity;
use super::keeper::Proposer;
use crate::meta::{Catalog, NodeState};

/// Takes nodes in.
pub struct Admission {
    /// Who this node is.
    pub identity: Identity,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// Takes commands to the metadata's leader, wherever it is.
    pub propose: Proposer,
}

impl Admission {
    /// Takes a node in, or its new addresses; asked again, it gives the same answer.
    pub async fn admit(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, Status> {
        let header = self.catalog.header();
        if header.cluster_id.is_empty() {
            return Err(Status::unavailable("this node is in no cluster yet"));
        }
        self.check(&request, header.shards)?;
        let register = pb::RegisterNode {
            node: request.node_id,
            region: request.region.clone(),
            rpc: request.rpc,
            http: request.http,
            level: request.level,
            version: request.version,
        };
        let registered = (self.propose)(Command::RegisterNode(register)).await;
        registered.map_err(|refusal| {
            if refusal.is_final {
                Status::failed_precondition(refusal.reason)
            } else {
                Status::unavailable(refusal.reason)
            }
        })?;
        let header = self.catalog.header();
        let region = header
            .regions
            .iter()
            .find(|region| region.name == request.region);
        let region =
            region.ok_or_else(|| Status::unavailable("the region isn't known here yet"))?;
        let topology = self.catalog.topology();
        let nodes = topology.nodes().iter();
        Ok(pb::JoinResponse {
            cluster_id: header.cluster_id.clone(),
            shards: header.shards,
            region: region.number,
            incarnation: region.incarnation,
            nodes: nodes
                .filter(|node| node.state != NodeState::Removed)
                .map(|node| pb::Member {
                    id: node.id,
                    rpc: node.rpc.clone(),
                })
                .collect(),
        })
    }

    fn check(&self, request: &pb::JoinRequest, shards: u32) -> Result<(), Status> {
        let mine = &self.identity.cluster_id;
        if !request.cluster_id.is_empty() && request.cluster_id != *mine {
            return Err(Status::permission_denied(format!(
                "it belongs to cluster {}, this is cluster {mine}",
                request.cluster_id
            )));
        }
        if request.shards != 0 && request.shards != shards {
            return Err(Status::failed_precondition(format!(
                "it was started with --shards {}, but this cluster has {shards}: leave --shards out",
                request.shards
            )));
        }
        let topology = self.catalog.topology();
        if topology.region_number(&request.region).is_none() {
            let known: Vec<&str> = topology.regions().map(|(_, name)| name).collect();
            return Err(Status::failed_precondition(format!(
                "it was started with --region {}, but this cluster has {}",
                request.region,
                known.join(", ")
            )));
        }
        Ok(())
    }
}
