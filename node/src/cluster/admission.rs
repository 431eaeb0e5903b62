//! How a node takes others into the cluster.
//!
//! Invariant, where there are certificates: a number that is known belongs to whoever holds a
//! certificate for the host that it was registered with. A node that moves to another host shows a
//! certificate that names both.

use std::sync::Arc;

use cloudkv_common::names::is_slip;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;
use tonic::Status;

use super::identity::{FIRST_REGION, Identity};
use super::keeper::Proposer;
use crate::meta::{Catalog, Topology};
use crate::raft::NodeId;
use crate::rpc::{Caller, check_address};

/// From this feature level on, a cluster can have several regions.
const REGIONS_LEVEL: u32 = 2;

/// Takes nodes in.
pub struct Admission {
    /// Who this node is.
    pub identity: Identity,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// Takes commands to the metadata's leader, wherever it is.
    pub propose: Proposer,
    /// Makes the metadata in memory as new as the leader's.
    pub refresh: Refresher,
}

/// Waits until this node's metadata is as new as the leader's was when it was asked; `false`: it
/// may not be.
pub type Refresher = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

impl Admission {
    /// Takes a node in, or its new addresses; asked again, it gives the same answer.
    pub async fn admit(
        &self,
        caller: Caller,
        request: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, Status> {
        let header = self.catalog.header();
        if header.cluster_id.is_empty() {
            return Err(Status::unavailable("this node is in no cluster yet"));
        }
        self.check(&request, header.shards)?;
        self.check_number(&caller, request.node_id).await?;
        self.add_region(&request).await?;
        let register = pb::RegisterNode {
            node: request.node_id,
            region: request.region.clone(),
            rpc: request.rpc,
            http: request.http,
            level: request.level,
            version: request.version,
            // It tells that itself once it is in.
            name: String::new(),
        };
        let registered = (self.propose)(Command::RegisterNode(register)).await;
        registered.map_err(|refusal| {
            if refusal.is_final {
                Status::failed_precondition(refusal.reason)
            } else if refusal.needs_person {
                Status::already_exists(refusal.reason)
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
        Ok(pb::JoinResponse {
            cluster_id: header.cluster_id.clone(),
            shards: header.shards,
            region: region.number,
            incarnation: region.incarnation,
            founds_region: region.number != FIRST_REGION && region.founder == request.node_id,
            adopts: region.number != FIRST_REGION,
            nodes: self.catalog.topology().members(),
        })
    }

    /// Refuses whoever asks for the number of another node.
    async fn check_number(&self, caller: &Caller, number: NodeId) -> Result<(), Status> {
        if let Caller::Local = caller {
            return Ok(());
        }
        // This node may not have heard of that one yet.
        if !(self.refresh)().await {
            return Err(Status::unavailable("the metadata has no leader"));
        }
        match self.catalog.topology().node(number) {
            Some(known) => check_address(caller, &known.rpc),
            None => Ok(()),
        }
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
        Ok(())
    }

    /// The first node of a region makes it known.
    async fn add_region(&self, request: &pb::JoinRequest) -> Result<(), Status> {
        let topology = self.catalog.topology();
        let number = topology.region_number(&request.region);
        if let Some(region) = number.and_then(|number| topology.region(number)) {
            return if region.leaving {
                let name = &region.name;
                Err(Status::unavailable(format!(
                    "region {name} is being removed"
                )))
            } else {
                Ok(())
            };
        }
        // A region that this node has not heard of yet may be there.
        if !(self.refresh)().await {
            return Err(Status::unavailable("the metadata has no leader"));
        }
        check_new_region(&self.catalog.topology(), request)?;
        if self.catalog.header().level < REGIONS_LEVEL {
            return Err(Status::unavailable(
                "some nodes of the cluster are of a version that knows one region only: upgrade them",
            ));
        }
        let add = pb::AddRegion {
            name: request.region.clone(),
            incarnation: random()?,
            founder: request.node_id,
        };
        let added = (self.propose)(Command::AddRegion(add)).await;
        added.map_err(|refusal| Status::unavailable(refusal.reason))
    }
}

/// Refuses a region that probably nobody meant to start: only its removal would undo it.
fn check_new_region(topology: &Topology, request: &pb::JoinRequest) -> Result<(), Status> {
    let name = request.region.as_str();
    let names: Vec<&str> = topology.regions().map(|(_, name)| name).collect();
    if names.contains(&name) {
        return Ok(());
    }
    let list = names.join(", ");
    if request.region_unnamed {
        return Err(Status::failed_precondition(format!(
            "it was started without --region, and its default, `{name}`, is no region of this \
             cluster: give --region (CLOUDKV_REGION) one of {list}, or, to start a new region, its \
             name"
        )));
    }
    match names.iter().find(|other| is_slip(name, other)) {
        Some(other) => Err(Status::failed_precondition(format!(
            "its --region, `{name}`, is one slip away from `{other}`, and this cluster has {list}: \
             give --region one of these or, to start a new region, a name that is not so close"
        ))),
        None => Ok(()),
    }
}

/// A number that names a history; never 0.
fn random() -> Result<u64, Status> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(u64::from_be_bytes(bytes) | 1)
}
