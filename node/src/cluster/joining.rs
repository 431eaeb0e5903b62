//! Joins a node to a cluster: it asks the configured nodes, in turn, until one admits it. A
//! repeated request gets the same answer, also after a restart: the node keeps the ID that it drew
//! at first.

use std::path::Path;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::identity::{Identity, IdentityError};
use crate::rpc::{self, Dialer};

/// Minimum and maximum backoff before all nodes are asked again.
const JOIN_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Error text of a node that is no longer a member of its cluster.
pub(super) const REMOVED_MESSAGE: &str = "this node was removed from the cluster, or its region \
                                          was: it can only come back with an empty data \
                                          directory, under a new number";

/// Membership of the cluster, as other nodes report it.
#[derive(Debug, Default)]
pub(super) struct MembershipReport {
    /// True if this node was removed.
    pub is_removed: bool,
    /// Members of the cluster; one may be listed more than once.
    pub members: Vec<pb::Member>,
}

/// Asks other nodes of the cluster, of which one is enough, whether this one was removed, and for
/// the members. Nodes that don't answer are ignored.
pub(super) async fn query_membership(
    dialer: &Dialer,
    identity: &Identity,
    addresses: &[String],
) -> MembershipReport {
    let queries = addresses
        .iter()
        .map(|address| rpc::identify(dialer, address, Some(identity.node_id)));
    let responses = join_all(queries).await.into_iter().flatten();
    let same_cluster = responses.filter(|response| response.cluster_id == identity.cluster_id);
    same_cluster.fold(MembershipReport::default(), |mut report, response| {
        report.is_removed |= response.removed;
        report.members.extend(response.nodes);
        report
    })
}

/// Reason why a node didn't join a cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A node refused to admit it.
    #[error("join the cluster of {address}: {reason}")]
    Refused {
        /// Address of that node.
        address: String,
        /// Reason of the refusal.
        reason: String,
    },
    /// The identity can't be stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node was stopped first.
    #[error("join the cluster: stopped before a node admitted this one")]
    Stopped,
}

/// Nodes to ask for admission, and the request.
#[derive(Clone, Debug)]
pub(crate) struct JoinSettings {
    /// Addresses of the nodes to ask.
    pub addresses: Vec<String>,
    /// Connects to the nodes.
    pub dialer: Dialer,
    /// Request of this node; the node ID is that of its identity.
    pub request: pb::JoinRequest,
}

impl JoinSettings {
    /// Returns the addresses to ask, without this node's own.
    fn other_addresses(&self) -> impl Iterator<Item = &String> {
        let own = &self.request.rpc;
        self.addresses.iter().filter(move |address| *address != own)
    }
}

/// Progress of a node that isn't admitted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinProgress {
    /// Step that the node waits for.
    pub waiting_for: String,
    /// Reason why it isn't admitted, with advice, if its address belongs to a member.
    pub address_conflict: Option<String>,
}

/// Joins the node of `identity`, stored in `dir`, to a cluster, and passes its progress to
/// `report`. Returns the new identity and the members that the cluster reported.
pub(crate) async fn join(
    dir: &Path,
    mut identity: Identity,
    application: JoinSettings,
    report: impl Fn(JoinProgress) + Send,
    stop: &CancellationToken,
) -> Result<(Identity, Vec<pb::Member>), JoinError> {
    let all: Vec<&str> = application.other_addresses().map(String::as_str).collect();
    report(JoinProgress {
        waiting_for: format!("one of {} to admit this node", all.join(", ")),
        address_conflict: None,
    });
    let mut backoff = JOIN_BACKOFF.0;
    loop {
        let mut answers = Answers::default();
        for address in application.other_addresses() {
            match request_join(&application, address, &identity).await {
                Ok(response) => {
                    let nodes = response.nodes.clone();
                    identity.accept_join(dir, response)?;
                    log_joined(&identity, address, &nodes);
                    return Ok((identity, nodes));
                }
                Err(status) if is_final(&status) => {
                    return Err(JoinError::Refused {
                        address: address.clone(),
                        reason: status.message().to_owned(),
                    });
                }
                Err(status) => answers.add(address, &status),
            }
        }
        tracing::warn!(
            answers = answers.describe(),
            "no node admits this one, retrying"
        );
        report(answers.into_progress());
        if stop
            .run_until_cancelled(tokio::time::sleep(backoff))
            .await
            .is_none()
        {
            return Err(JoinError::Stopped);
        }
        backoff = (2 * backoff).min(JOIN_BACKOFF.1);
    }
}

/// Answers of nodes that don't admit this one.
#[derive(Debug, Default)]
struct Answers {
    /// Answer of each node.
    all: Vec<String>,
    /// Reason of a node that refuses the address, which belongs to a member.
    address_conflict: Option<String>,
}

impl Answers {
    fn add(&mut self, address: &str, answer: &Status) {
        // No other error of `Admission` has this code.
        if answer.code() == Code::AlreadyExists {
            self.address_conflict = Some(answer.message().to_owned());
        }
        self.all.push(describe_answer(address, answer.message()));
    }

    /// Describes the answers. Where the address belongs to a member, only that counts: every node
    /// that reaches the metadata's leader says so.
    fn describe(&self) -> String {
        let conflict = self.address_conflict.clone();
        conflict.unwrap_or_else(|| self.all.join("; "))
    }

    fn into_progress(self) -> JoinProgress {
        JoinProgress {
            waiting_for: format!("a node to admit this one ({})", self.describe()),
            address_conflict: self.address_conflict,
        }
    }
}

/// Describes the answer of a node that doesn't admit this one, with advice where none listens: a
/// node that is started alone has no rpc port.
fn describe_answer(address: &str, answer: &str) -> String {
    let advice = if answer.contains("Connection refused") {
        "; does the node run, and was it started with --init or --rpc?"
    } else {
        ""
    };
    format!("{address}: {answer}{advice}")
}

fn log_joined(identity: &Identity, by: &str, nodes: &[pb::Member]) {
    let (cluster, region) = (&identity.cluster_id, &identity.region);
    let node = u64::from(identity.node_id);
    let nodes: Vec<&str> = nodes.iter().map(|node| node.rpc.as_str()).collect();
    let nodes = nodes.join(", ");
    tracing::info!(cluster, node, region, by, nodes, "joined cluster");
    if identity.bootstraps_region {
        tracing::warn!(
            region,
            cluster,
            "this node starts a new region; if that was not intended, `cloudkv-node admin \
             remove-region {region}` at a node of another region takes it back"
        );
    }
}

/// Checks a member: it must not continue if the nodes that it is configured to join belong to
/// another cluster, or if one of them, or of the nodes that it last knew, at the addresses `known`,
/// reports that it was removed. Nodes that don't answer are ignored. Returns the members that the
/// others reported, which the node's own metadata may lack.
pub(crate) async fn check_membership(
    identity: &Identity,
    application: &JoinSettings,
    known: &[String],
) -> Result<Vec<pb::Member>, JoinError> {
    let is_configured = |address: &String| application.addresses.contains(address);
    let known = known.iter().filter(|address| !is_configured(address));
    let addresses = application.addresses.iter().chain(known);
    let queries = addresses.map(|address| async {
        let me = Some(identity.node_id);
        let response = rpc::identify(&application.dialer, address, me).await.ok()?;
        Some((address.clone(), response))
    });
    let is_same_cluster =
        |response: &pb::IdentifyResponse| response.cluster_id == identity.cluster_id;
    let responses = join_all(queries).await.into_iter().flatten();
    // A node that was known may have been replaced by one of another cluster.
    let responses: Vec<_> = responses
        .filter(|(address, it)| is_configured(address) || is_same_cluster(it))
        .collect();
    if let Some((address, _)) = responses
        .iter()
        .find(|(_, it)| is_same_cluster(it) && it.removed)
    {
        return Err(JoinError::Refused {
            address: address.clone(),
            reason: REMOVED_MESSAGE.to_owned(),
        });
    }
    if let Some((address, response)) = responses
        .iter()
        .find(|(_, response)| !is_same_cluster(response))
    {
        return Err(JoinError::Refused {
            address: address.clone(),
            reason: format!(
                "the node there is of cluster {}, but the data directory belongs to a node of \
                 cluster {}: leave --join out, or give another --data-dir",
                response.cluster_id, identity.cluster_id
            ),
        });
    }
    let nodes = responses
        .into_iter()
        .flat_map(|(_, response)| response.nodes);
    Ok(nodes.collect())
}

async fn request_join(
    application: &JoinSettings,
    address: &str,
    identity: &Identity,
) -> Result<pb::JoinResponse, Status> {
    let request = pb::JoinRequest {
        node_id: identity.node_id.into(),
        ..application.request.clone()
    };
    rpc::join(&application.dialer, address, request).await
}

/// Returns whether another request would get the same answer.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_where_nothing_listens() {
        let refused = describe_answer(
            "a:7070",
            "connect to a:7070: Connection refused (os error 111)",
        );
        assert!(refused.ends_with("with --init or --rpc?"), "{refused}");
        assert_eq!(describe_answer("a:7070", "no answer"), "a:7070: no answer");
    }

    #[test]
    fn an_address_that_belongs_to_a_member_is_what_the_node_waits_for() {
        let mut answers = Answers::default();
        answers.add("a:7070", &Status::unavailable("no answer"));
        assert_eq!(answers.describe(), "a:7070: no answer");
        for address in ["b:7070", "c:7070"] {
            answers.add(address, &Status::already_exists("it belongs to node d"));
        }
        let progress = answers.into_progress();
        assert_eq!(
            progress,
            JoinProgress {
                waiting_for: "a node to admit this one (it belongs to node d)".to_owned(),
                address_conflict: Some("it belongs to node d".to_owned()),
            }
        );
    }
}
