//! Lanes to nodes, and the greeting on each: a node answers only nodes and routers of its own
//! cluster, and only those that mean it and no other.

use cloudkv_proto::v1 as pb;
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::{NodeId, headers};

const CLUSTER: &str = "cloudkv-cluster";
const FROM: &str = "cloudkv-from";
const TO: &str = "cloudkv-to";
const LANE: &str = "cloudkv-lane";

/// Calls of one kind: each lane has a connection and a stream of its own, so that users' values
/// never stand in the way of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Raft, and the nodes' heartbeats.
    Raft,
    /// Users' requests that another node has authorised.
    Keys,
    /// Users' requests as they came to a router: by frames without gRPC, see [`super::frames`].
    Users,
    /// Changes on their way to other regions.
    Geo,
}

impl Lane {
    /// Those that are streams of gRPC.
    const OVER_GRPC: [Self; 3] = [Self::Raft, Self::Keys, Self::Geo];

    fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Keys => "keys",
            Self::Users => "users",
            Self::Geo => "geo",
        }
    }
}

/// Who calls whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster of both.
    pub cluster_id: String,
    /// The node that calls; 0: a router.
    pub from: NodeId,
    /// The node that is called.
    pub to: NodeId,
}

impl Greeting {
    /// Writes the greeting for `lane` into a request's metadata.
    pub fn write(&self, lane: Lane, metadata: &mut MetadataMap) -> Result<(), Status> {
        let text = |value: &str| {
            AsciiMetadataValue::try_from(value)
                .map_err(|_| Status::internal("a greeting that can't be sent"))
        };
        metadata.insert(CLUSTER, text(&self.cluster_id)?);
        metadata.insert(FROM, text(&self.from.to_string())?);
        metadata.insert(TO, text(&self.to.to_string())?);
        metadata.insert(LANE, text(lane.name())?);
        Ok(())
    }

    /// Reads who calls, on which lane, if it is a node of `cluster_id` that means node `me`.
    pub fn check(
        metadata: &MetadataMap,
        cluster_id: &str,
        me: NodeId,
    ) -> Result<(NodeId, Lane), Status> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let node = |name| text(name).and_then(|id| id.parse::<NodeId>().ok());
        let cluster = text(CLUSTER).unwrap_or_default();
        meant((cluster, node(TO)), (cluster_id, me))?;
        let from =
            node(FROM).ok_or_else(|| Status::invalid_argument("the caller has no number"))?;
        let lane = text(LANE);
        let lane = Lane::OVER_GRPC
            .into_iter()
            .find(|known| Some(known.name()) == lane);
        let lane = lane.ok_or_else(|| Status::invalid_argument("no such lane"))?;
        Ok((from, lane))
    }

    /// The greeting on the lane for users.
    pub fn of_router(&self) -> pb::UserGreeting {
        pb::UserGreeting {
            cluster_id: self.cluster_id.clone(),
            to: self.to,
            headers: headers::VERSION,
        }
    }
}

/// Whether a router of `cluster_id` greets that means node `me` and speaks as it does.
pub fn check_router(
    greeting: &pb::UserGreeting,
    cluster_id: &str,
    me: NodeId,
) -> Result<(), Status> {
    meant((&greeting.cluster_id, Some(greeting.to)), (cluster_id, me))?;
    same_headers(greeting.headers)
}

/// Whether the other end knows the same headers. If not, requests go by HTTP until both ends are of
/// one version.
pub(super) fn same_headers(version: u32) -> Result<(), Status> {
    if version == headers::VERSION {
        return Ok(());
    }
    Err(Status::unimplemented(format!(
        "headers of version {version}, where {} is known",
        headers::VERSION
    )))
}

/// Whether a caller means the node that it reached.
fn meant(
    (cluster, to): (&str, Option<NodeId>),
    (cluster_id, me): (&str, NodeId),
) -> Result<(), Status> {
    if cluster != cluster_id {
        return Err(Status::permission_denied(format!(
            "this node belongs to cluster {cluster_id}, the caller to `{cluster}`"
        )));
    }
    if to != Some(me) {
        return Err(Status::failed_precondition(format!(
            "this is node {me}, not the one that was called"
        )));
    }
    Ok(())
}
