//! Kinds of streams to nodes, and the greeting on each: a node answers only nodes and routers of
//! its own cluster, and only those that address it and no other node.

use cloudkv_proto::v1 as pb;
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::{NodeId, headers};

const CLUSTER: &str = "cloudkv-cluster";
const FROM: &str = "cloudkv-from";
const TO: &str = "cloudkv-to";
const LANE: &str = "cloudkv-lane";

/// Purpose of a stream. Each kind has a connection and a stream of its own, so that users' values
/// never delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Raft, and the nodes' heartbeats.
    Raft,
    /// Users' requests that another node has authorized and forwards.
    Keys,
    /// Users' requests as they came to a router: frames without gRPC, see [`super::frames`].
    Users,
    /// Changes sent to other regions.
    Geo,
}

impl Lane {
    /// Kinds whose streams are gRPC.
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

/// First message on a stream: caller, callee and cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Cluster of both.
    pub cluster_id: String,
    /// Calling node; 0: a router.
    pub from: NodeId,
    /// Called node.
    pub to: NodeId,
}

impl Greeting {
    /// Writes the greeting for a stream of this `kind` into a request's metadata.
    ///
    /// # Errors
    /// Fails if the cluster's ID can't be a metadata value.
    pub fn write(&self, kind: Lane, metadata: &mut MetadataMap) -> Result<(), Status> {
        let text = |value: &str| {
            AsciiMetadataValue::try_from(value)
                .map_err(|_| Status::internal("encode greeting: not ASCII"))
        };
        metadata.insert(CLUSTER, text(&self.cluster_id)?);
        metadata.insert(FROM, text(&self.from.to_string())?);
        metadata.insert(TO, text(&self.to.to_string())?);
        metadata.insert(LANE, text(kind.name())?);
        Ok(())
    }

    /// Reads the caller and the kind of the stream.
    ///
    /// # Errors
    /// Fails if the caller isn't of `cluster_id`, addresses another node than `me`, or has no
    /// number or no known kind.
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
            node(FROM).ok_or_else(|| Status::invalid_argument("the caller has no node number"))?;
        let name = text(LANE);
        let kind = Lane::OVER_GRPC
            .into_iter()
            .find(|known| Some(known.name()) == name);
        let kind = kind.ok_or_else(|| Status::invalid_argument("unknown stream kind"))?;
        Ok((from, kind))
    }

    /// Returns the greeting for a stream of users' requests.
    pub fn of_router(&self) -> pb::UserGreeting {
        pb::UserGreeting {
            cluster_id: self.cluster_id.clone(),
            to: self.to,
            headers: headers::VERSION,
        }
    }
}

/// Checks that a router is of `cluster_id`, addresses node `me` and knows the same headers.
///
/// # Errors
/// Fails if one of these doesn't hold.
pub fn check_router(
    greeting: &pb::UserGreeting,
    cluster_id: &str,
    me: NodeId,
) -> Result<(), Status> {
    meant((&greeting.cluster_id, Some(greeting.to)), (cluster_id, me))?;
    same_headers(greeting.headers)
}

/// Checks that the other end knows the same headers. If not, requests are sent as HTTP until both
/// ends have the same version.
pub(super) fn same_headers(version: u32) -> Result<(), Status> {
    if version == headers::VERSION {
        return Ok(());
    }
    Err(Status::unimplemented(format!(
        "header table has version {version}, expected {}",
        headers::VERSION
    )))
}

/// Checks that a caller has reached the cluster and the node that it addresses.
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
