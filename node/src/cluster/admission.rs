//! Admits other nodes into the cluster.
//!
//! Invariant, with certificates: a known node ID belongs to the holder of a certificate for the
//! host with which the node was registered. A node that moves to another host presents a
//! certificate for both hosts.

use std::sync::Arc;

use cloudkv_common::names::is_likely_typo;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;
use tonic::Status;

use super::identity::{FIRST_REGION, Identity};
use super::placement_controller::MetadataProposer;
use crate::meta::{Catalog, NodeState, Topology};
use crate::raft::NodeId;
use crate::rpc::{PeerIdentity, check_address};

/// Admits nodes into the cluster.
pub(crate) struct Admission {
    /// Identity of this node.
    pub identity: Identity,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// Sends commands to the metadata's leader on any node.
    pub propose: MetadataProposer,
    /// Brings the metadata in memory up to date with the leader's.
    pub refresh: Refresher,
}

/// Waits until this node's metadata is as new as the leader's was at the call. Returns `false` if
/// it may not be.
pub(crate) type Refresher = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

impl Admission {
    /// Admits a node, or updates its addresses. A repeated request gets the same answer.
    pub(crate) async fn admit(
        &self,
        caller: PeerIdentity,
        request: pb::JoinRequest,
    ) -> Result<pb::JoinResponse, Status> {
        let header = self.catalog.header();
        if header.cluster_id.is_empty() {
            return Err(Status::unavailable(
                "this node has not joined a cluster yet",
            ));
        }
        self.check_request(&request, header.shards)?;
        let id = NodeId::from(request.node_id);
        self.check_node_id(&caller, id).await?;
        self.add_region(&request).await?;
        let registered = (self.propose)(Command::RegisterNode(registration(&request))).await;
        registered.map_err(|refusal| {
            if refusal.is_final {
                Status::failed_precondition(refusal.reason)
            } else if refusal.needs_operator {
                let taken = describe_taken_address(&self.catalog.topology(), &request.rpc);
                Status::already_exists(taken.unwrap_or(refusal.reason))
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
            bootstraps_region: region.number != FIRST_REGION
                && region.bootstrap_node == request.node_id,
            must_seed: region.number != FIRST_REGION,
            nodes: self.catalog.topology().members(),
        })
    }

    /// Refuses a caller that uses the node ID of another node.
    async fn check_node_id(&self, caller: &PeerIdentity, number: NodeId) -> Result<(), Status> {
        if let PeerIdentity::Local = caller {
            return Ok(());
        }
        // This node may not know the other one yet.
        if !(self.refresh)().await {
            return Err(Status::unavailable(
                "reach the metadata's leader: there is none",
            ));
        }
        match self.catalog.topology().node(number) {
            Some(known) => check_address(caller, &known.rpc),
            None => Ok(()),
        }
    }

    fn check_request(&self, request: &pb::JoinRequest, shards: u32) -> Result<(), Status> {
        let own = &self.identity.cluster_id;
        if !request.cluster_id.is_empty() && request.cluster_id != *own {
            return Err(Status::permission_denied(format!(
                "the node belongs to cluster {}, this is cluster {own}",
                request.cluster_id
            )));
        }
        if request.shards != 0 && request.shards != shards {
            return Err(Status::failed_precondition(format!(
                "the node was started with --shards {}, but this cluster has {shards}: leave \
                 --shards out",
                request.shards
            )));
        }
        Ok(())
    }

    /// Adds the region of its first node.
    async fn add_region(&self, request: &pb::JoinRequest) -> Result<(), Status> {
        let topology = self.catalog.topology();
        let number = topology.region_number(&request.region);
        if let Some(region) = number.and_then(|number| topology.region(number)) {
            return if region.is_removing {
                let name = &region.name;
                Err(Status::unavailable(format!(
                    "region {name} is being removed"
                )))
            } else {
                Ok(())
            };
        }
        // The region may exist without this node knowing it.
        if !(self.refresh)().await {
            return Err(Status::unavailable(
                "reach the metadata's leader: there is none",
            ));
        }
        check_new_region(&self.catalog.topology(), request)?;
        let add = pb::AddRegion {
            name: request.region.clone(),
            incarnation: random_incarnation()?,
            bootstrap_node: request.node_id,
        };
        let added = (self.propose)(Command::AddRegion(add)).await;
        added.map_err(|refusal| Status::unavailable(refusal.reason))
    }
}

/// Returns the registration of a node that asks to join. An older version sends its name only once
/// it is a member.
fn registration(request: &pb::JoinRequest) -> pb::RegisterNode {
    pb::RegisterNode {
        node: request.node_id,
        region: request.region.clone(),
        rpc: request.rpc.clone(),
        http: request.http.clone(),
        level: request.level,
        version: request.version.clone(),
        name: request.name.clone(),
    }
}

/// Refuses a region that was probably created by mistake: only removing it would undo that.
fn check_new_region(topology: &Topology, request: &pb::JoinRequest) -> Result<(), Status> {
    let name = request.region.as_str();
    let names: Vec<&str> = topology.region_names().map(|(_, name)| name).collect();
    if names.contains(&name) {
        return Ok(());
    }
    let list = names.join(", ");
    if request.region_unnamed {
        return Err(Status::failed_precondition(format!(
            "the node was started without --region, and its default, `{name}`, is no region of \
             this cluster: give --region (CLOUDKV_REGION) one of {list}, or, to start a new \
             region, its name"
        )));
    }
    match names.iter().find(|other| is_likely_typo(name, other)) {
        Some(other) => Err(Status::failed_precondition(format!(
            "the node's --region, `{name}`, is one slip away from `{other}`, and this cluster has \
             {list}: give --region one of these or, to start a new region, a name that is not so \
             close"
        ))),
        None => Ok(()),
    }
}

/// Describes the node that has an rpc address, and what frees it.
fn describe_taken_address(topology: &Topology, rpc: &str) -> Option<String> {
    let mut nodes = topology.nodes().iter();
    let holder = nodes.find(|node| node.state != NodeState::Removed && node.rpc == rpc)?;
    let region = topology.region_name(holder.region).unwrap_or("?");
    let name = topology.unique_name(holder);
    let remedy = match topology.nodes_of(holder.region).count() {
        1 => format!(
            "`cloudkv-node admin remove-region {region}` frees it, since it is the last one there"
        ),
        _ => format!("`cloudkv-node admin replace {name}` at another node frees it"),
    };
    Some(format!(
        "the rpc address {rpc} belongs to node {name} of region {region}: if that node is lost for \
         good, {remedy}; else give the new one another rpc or advertise_rpc"
    ))
}

/// Draws a random incarnation; never 0.
fn random_incarnation() -> Result<u64, Status> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(u64::from_be_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::NodeInfo;

    #[test]
    fn a_taken_address_is_described_with_the_command_that_frees_it() {
        let node = |number: u64, region, name: &str| NodeInfo {
            id: NodeId::from(number),
            region,
            rpc: format!("n{number}:7070"),
            http: format!("n{number}:8080"),
            state: NodeState::Active,
            level: 1,
            version: String::new(),
            joined_at: 1,
            name: name.to_owned(),
            removed_at: 0,
        };
        let mut topology = Topology::default();
        for node in [node(1, 1, ""), node(2, 1, "second"), node(3, 2, "")] {
            topology.put_node(node);
        }
        let describe = |rpc| describe_taken_address(&topology, rpc).unwrap_or_default();
        let second = describe("n2:7070");
        assert!(
            second.starts_with("the rpc address n2:7070 belongs to node second of region"),
            "{second}"
        );
        assert!(second.contains("`cloudkv-node admin replace second`"));
        assert!(describe("n1:7070").contains("`cloudkv-node admin replace n1`"));
        assert!(describe("n3:7070").contains("admin remove-region"));
        assert_eq!(describe("n4:7070"), "");
    }

    #[test]
    fn a_node_is_registered_with_the_name_that_it_joins_with() {
        let request = pb::JoinRequest {
            node_id: 7,
            rpc: "host:7070".to_owned(),
            name: "eu-1".to_owned(),
            ..Default::default()
        };
        let registration = registration(&request);
        assert_eq!(
            (registration.node, registration.rpc, registration.name),
            (7, "host:7070".to_owned(), "eu-1".to_owned())
        );
    }
}
