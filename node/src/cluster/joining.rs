//! How a node gets into a cluster: it asks the nodes that it is told of, in turn, until one takes
//! it in. Asked again, after a restart too, they give the same answer: it keeps the number that it
//! drew at first.

use std::path::Path;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::identity::{Identity, IdentityError};
use crate::rpc::{self, Dialer};

/// Pauses before all are asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What a node says that has no place in its cluster any more.
pub(super) const REMOVED: &str = "this node was removed from the cluster, or its region was: it can \
                                  only come back with an empty data directory, under a new number";

/// Answers of other nodes on the cluster.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// This node was removed.
    pub removed: bool,
    /// The nodes that there are. The same one may be told of more than once.
    pub nodes: Vec<pb::Member>,
}

/// Asks other nodes of the cluster, of which one is enough, whether this one was removed, and which
/// others there are. What they don't answer says nothing.
pub(super) async fn ask_others(
    dialer: &Dialer,
    identity: &Identity,
    addresses: &[String],
) -> Heard {
    let asked = addresses
        .iter()
        .map(|address| rpc::identify(dialer, address, identity.node_id));
    let answers = join_all(asked).await.into_iter().flatten();
    let ours = answers.filter(|answer| answer.cluster_id == identity.cluster_id);
    ours.fold(Heard::default(), |mut heard, answer| {
        heard.removed |= answer.removed;
        heard.nodes.extend(answer.nodes);
        heard
    })
}

/// Why a node got into no cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A cluster doesn't want it.
    #[error("the cluster of {address} doesn't take this node in: {reason}")]
    Refused {
        /// Who said so.
        address: String,
        /// Why.
        reason: String,
    },
    /// What it was told can't be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node was told to stop first.
    #[error("it was stopped before a node took it in")]
    Stopped,
}

/// Where a node asks, and for what.
#[derive(Clone, Debug)]
pub struct Application {
    /// The nodes to ask.
    pub addresses: Vec<String>,
    /// Connects to them.
    pub dialer: Dialer,
    /// What it says of itself; its number is that of its identity.
    pub request: pb::JoinRequest,
}

/// Gets the node of `identity`, kept in `dir`, into a cluster. Returns its identity there, and the
/// nodes that it was told of.
pub async fn join(
    dir: &Path,
    mut identity: Identity,
    application: Application,
    stop: &CancellationToken,
) -> Result<(Identity, Vec<pb::Member>), JoinError> {
    let mut pause = PAUSE.0;
    loop {
        let others = application.addresses.iter();
        for address in others.filter(|address| **address != application.request.rpc) {
            match ask(&application, address, &identity).await {
                Ok(answer) => {
                    let nodes = answer.nodes.clone();
                    identity.joined(dir, answer)?;
                    tracing::info!(
                        cluster = identity.cluster_id,
                        node = identity.node_id,
                        "joined"
                    );
                    return Ok((identity, nodes));
                }
                Err(status) if is_final(&status) => {
                    return Err(JoinError::Refused {
                        address: address.clone(),
                        reason: status.message().to_owned(),
                    });
                }
                Err(status) if needs_person(&status) => {
                    tracing::warn!(address, reason = status.message(), "not joined");
                }
                Err(status) => {
                    tracing::info!(address, reason = status.message(), "no node to join yet");
                }
            }
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Err(JoinError::Stopped);
        }
        pause = (2 * pause).min(PAUSE.1);
    }
}

/// A member that is told to join where it belongs already has nothing to do; told to join another
/// cluster, it must not go on. Nodes that don't answer say nothing. Returns the nodes that it was told
/// of: its own metadata may not have them.
pub async fn check_membership(
    identity: &Identity,
    application: &Application,
) -> Result<Vec<pb::Member>, JoinError> {
    let asked = application.addresses.iter().map(|address| async {
        let me = identity.node_id;
        let answer = rpc::identify(&application.dialer, address, me).await.ok()?;
        Some((address.clone(), answer))
    });
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let here = |answer: &pb::IdentifyResponse| answer.cluster_id == identity.cluster_id;
    if let Some((address, _)) = answers.iter().find(|(_, it)| here(it) && it.removed) {
        return Err(JoinError::Refused {
            address: address.clone(),
            reason: REMOVED.to_owned(),
        });
    }
    if let Some((address, answer)) = answers.iter().find(|(_, answer)| !here(answer)) {
        return Err(JoinError::Refused {
            address: address.clone(),
            reason: format!(
                "it is of cluster {}, but the data directory belongs to a node of cluster {}: \
                 leave --join out, or give another --data-dir",
                answer.cluster_id, identity.cluster_id
            ),
        });
    }
    let nodes = answers.into_iter().flat_map(|(_, answer)| answer.nodes);
    Ok(nodes.collect())
}

async fn ask(
    application: &Application,
    address: &str,
    identity: &Identity,
) -> Result<pb::JoinResponse, Status> {
    let request = pb::JoinRequest {
        node_id: identity.node_id,
        ..application.request.clone()
    };
    rpc::join(&application.dialer, address, request).await
}

/// Whether nothing will come of asking again before somebody has changed something.
fn needs_person(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::AlreadyExists)
}

/// Whether asking again would change nothing.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied
    )
}
