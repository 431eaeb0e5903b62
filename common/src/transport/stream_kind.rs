//! Protocols and kinds of streams to nodes, and the greeting on each: a node answers only nodes and
//! routers of its own cluster, and only those that address it and no other node.

use cloudkv_proto::v1 as pb;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::headers;
use crate::node_id::NodeId;

const CLUSTER_KEY: &str = "cloudkv-cluster";
const FROM_KEY: &str = "cloudkv-from";
const TO_KEY: &str = "cloudkv-to";
const STREAM_KIND_KEY: &str = "cloudkv-lane";

/// Protocol of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamProtocol {
    /// gRPC, between nodes.
    Grpc(StreamKind),
    /// Users' requests as they came to a router: frames without gRPC, see [`super::frames`].
    UserFrames,
}

/// Purpose of a gRPC stream between nodes. Each kind has a connection and a stream of its own, so
/// that users' values never delay a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Raft, and the nodes' heartbeats.
    Raft,
    /// Users' requests that another node has authorized and forwards.
    Forwarded,
    /// Changes sent to other regions.
    Geo,
}

impl StreamKind {
    const ALL: [Self; 3] = [Self::Raft, Self::Forwarded, Self::Geo];

    fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Forwarded => "keys",
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
    pub fn write_metadata(
        &self,
        kind: StreamKind,
        metadata: &mut MetadataMap,
    ) -> Result<(), Status> {
        let text = |value: &str| {
            AsciiMetadataValue::try_from(value)
                .map_err(|_| Status::internal("encode greeting: not ASCII"))
        };
        metadata.insert(CLUSTER_KEY, text(&self.cluster_id)?);
        metadata.insert(FROM_KEY, text(&self.from.to_string())?);
        metadata.insert(TO_KEY, text(&self.to.to_string())?);
        metadata.insert(STREAM_KIND_KEY, text(kind.name())?);
        Ok(())
    }

    /// Reads the caller and the kind of the stream.
    ///
    /// # Errors
    /// Fails if the caller isn't of `cluster_id`, addresses another node than `me`, or has no
    /// number or no known kind.
    pub fn from_metadata(
        metadata: &MetadataMap,
        cluster_id: &str,
        me: NodeId,
    ) -> Result<(NodeId, StreamKind), Status> {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let node = |name| text(name).and_then(|id| id.parse::<NodeId>().ok());
        let cluster = text(CLUSTER_KEY).unwrap_or_default();
        check_destination((cluster, node(TO_KEY)), (cluster_id, me))?;
        let from = node(FROM_KEY)
            .ok_or_else(|| Status::invalid_argument("the caller has no node number"))?;
        let name = text(STREAM_KIND_KEY);
        let kind = StreamKind::ALL
            .into_iter()
            .find(|known| Some(known.name()) == name);
        let kind = kind.ok_or_else(|| Status::invalid_argument("unknown stream kind"))?;
        Ok((from, kind))
    }

    /// Returns the greeting for a stream of users' requests.
    pub(super) fn to_user_greeting(&self) -> pb::UserGreeting {
        pb::UserGreeting {
            cluster_id: self.cluster_id.clone(),
            to: self.to.into(),
            headers: headers::TABLE_VERSION,
        }
    }
}

/// Checks that a router is of `cluster_id`, addresses node `me` and knows the same headers.
///
/// # Errors
/// Fails if one of these doesn't hold.
pub(super) fn check_user_greeting(
    greeting: &pb::UserGreeting,
    cluster_id: &str,
    me: NodeId,
) -> Result<(), Status> {
    let to = NodeId::from(greeting.to);
    check_destination((&greeting.cluster_id, Some(to)), (cluster_id, me))?;
    check_header_version(greeting.headers)
}

/// Checks that the other end knows the same headers. If not, requests are sent as HTTP until both
/// ends have the same version.
pub(super) fn check_header_version(version: u32) -> Result<(), Status> {
    if version == headers::TABLE_VERSION {
        return Ok(());
    }
    Err(Status::unimplemented(format!(
        "header table has version {version}, expected {}",
        headers::TABLE_VERSION
    )))
}

/// Checks that a caller has reached the cluster and the node that it addresses.
fn check_destination(
    (cluster, to): (&str, Option<NodeId>),
    (cluster_id, me): (&str, NodeId),
) -> Result<(), Status> {
    if cluster != cluster_id {
        return Err(other_cluster_status(cluster, cluster_id));
    }
    if to != Some(me) {
        return Err(Status::failed_precondition(format!(
            "this is node {me}, not the one that was called"
        )));
    }
    Ok(())
}

/// Builds the refusal of a caller that is of `cluster`: the answering one is in its metadata, too.
fn other_cluster_status(cluster: &str, cluster_id: &str) -> Status {
    let mut status = Status::permission_denied(format!(
        "this node belongs to cluster {cluster_id}, the caller to `{cluster}`"
    ));
    if let Ok(cluster_id) = AsciiMetadataValue::try_from(cluster_id) {
        status.metadata_mut().insert(CLUSTER_KEY, cluster_id);
    }
    status
}

/// Returns the ID of the cluster that answered, if a stream was refused because the caller is of
/// another one.
pub(super) fn answering_cluster(status: &Status) -> Option<&str> {
    let is_refusal = status.code() == Code::PermissionDenied;
    let cluster_id = status.metadata().get(CLUSTER_KEY).filter(|_| is_refusal)?;
    cluster_id.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_of_another_cluster_is_told_which_one_answers() {
        let greeting = Greeting {
            cluster_id: "ours".to_owned(),
            from: NodeId::from(1),
            to: NodeId::from(2),
        };
        let mut metadata = MetadataMap::new();
        let written = greeting.write_metadata(StreamKind::Raft, &mut metadata);
        written.unwrap();
        let read =
            |cluster: &str, me: u64| Greeting::from_metadata(&metadata, cluster, NodeId::from(me));
        assert_eq!(
            read("ours", 2).unwrap(),
            (NodeId::from(1), StreamKind::Raft)
        );
        let refusal = read("theirs", 2).unwrap_err();
        assert_eq!(answering_cluster(&refusal), Some("theirs"));
        let refusal = read("ours", 3).unwrap_err();
        assert_eq!(answering_cluster(&refusal), None);
    }
}
