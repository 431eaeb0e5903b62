//! Authorization of callers by their certificates.
//!
//! Invariants, where there are certificates:
//! - only a node may open the streams between nodes, join, and send snapshots; a router may
//!   identify a node, watch the topology, and forward users' requests, each of which is authorised
//!   by itself;
//! - a caller that claims to be a node has a certificate that names the host at which that node is
//!   registered. A node number that isn't known here may be new, since this node may lag: its
//!   claimant is told to retry, and the other nodes are asked (`cluster::peer_discovery`). Streams
//!   are checked again every second: one whose node number turns out to be another node's, or no
//!   node's, is closed;
//! - a node's certificate allows forwarding users' requests only if it names a host of a member.

use std::time::Duration;

use cloudkv_common::hosts::host_of;
use cloudkv_common::transport::tls::PeerIdentity;
use tonic::{Request, Status};

use super::peers::Peers;
use crate::types::NodeId;

/// Interval at which the node number of an open stream is checked again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the caller that a request's connection was authenticated as.
pub(super) fn caller_of<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let caller = request.extensions().get::<PeerIdentity>().cloned();
    caller.ok_or_else(|| Status::internal("identify caller: the connection is not authenticated"))
}

/// Refuses callers that are not nodes.
pub(super) fn check_node(caller: &PeerIdentity) -> Result<(), Status> {
    match caller {
        PeerIdentity::Certified(peer) if !peer.is_node() => {
            Err(Status::permission_denied(format!(
                "the certificate (for {}) is a router's: only nodes may do this",
                peer.hosts()
            )))
        }
        PeerIdentity::Certified(_) | PeerIdentity::Local => Ok(()),
    }
}

/// Refuses callers whose certificate doesn't name the host of an `rpc` address.
pub(crate) fn check_address(caller: &PeerIdentity, address: &str) -> Result<(), Status> {
    let PeerIdentity::Certified(peer) = caller else {
        return Ok(());
    };
    if host_of(address).is_some_and(|host| peer.names_host(host)) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "the certificate names {}, and can't be used for the node at {address}",
        peer.hosts()
    )))
}

/// Refuses callers that aren't node `from`. An unknown node number is noted, so that the other
/// nodes are asked about it.
pub(super) fn check_node_number(
    caller: &PeerIdentity,
    from: NodeId,
    peers: &Peers,
) -> Result<(), Status> {
    if let PeerIdentity::Local = caller {
        return Ok(());
    }
    check_node(caller)?;
    match peers.address_of(from) {
        Some(address) => check_address(caller, &address),
        None => {
            peers.note_unknown_caller();
            Err(Status::unavailable(format!(
                "this node knows no node {from}, or not yet"
            )))
        }
    }
}

/// Refuses nodes whose certificates name no member: not even users' requests are accepted from
/// them.
pub(super) fn check_forwarder(caller: &PeerIdentity, peers: &Peers) -> Result<(), Status> {
    match caller {
        PeerIdentity::Certified(peer)
            if peer.is_node() && !peers.any_host(|host| peer.names_host(host)) =>
        {
            Err(Status::permission_denied(format!(
                "the certificate names {}, where no node of the cluster is",
                peer.hosts()
            )))
        }
        PeerIdentity::Certified(_) | PeerIdentity::Local => Ok(()),
    }
}

/// Waits until the caller turns out not to be node `from`, and returns the refusal.
pub(super) async fn wait_until_unauthorized(
    caller: PeerIdentity,
    from: NodeId,
    peers: &Peers,
) -> Status {
    loop {
        tokio::time::sleep(RECHECK_INTERVAL).await;
        if let Err(refused) = check_node_number(&caller, from, peers) {
            return refused;
        }
    }
}
