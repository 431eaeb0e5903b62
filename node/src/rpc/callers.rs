//! What the certificate at the other end of a connection allows.
//!
//! Invariants, where there are certificates:
//! - only a node speaks on the lanes between nodes, joins, and sends snapshots; a router may ask who a
//!   node is and where everything is, and bring users' requests, each of which is judged by itself;
//! - whoever speaks as a node holds a certificate that names the host at which that node is
//!   registered. A number that isn't known here may be new, since this node may lag: who claims it
//!   is told to come again, and the other nodes are asked (`cluster::hearsay`). Streams are looked
//!   at again every second: one whose number turns out to be another's, or nobody's, ends;
//! - a node's certificate brings users' requests only if it names a host of a member.

use std::time::Duration;

use cloudkv_proto::tls::{Caller, host_of};
use tonic::{Request, Status};

use super::peers::Peers;
use crate::raft::NodeId;

/// How often it is looked at who is registered under the number of a stream.
const LOOK: Duration = Duration::from_secs(1);

/// Who sent a request.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("a connection that doesn't tell who called"))
}

/// Refuses all but nodes.
pub(super) fn check_node(caller: &Caller) -> Result<(), Status> {
    match caller {
        Caller::Certified(peer) if !peer.is_node() => Err(Status::permission_denied(format!(
            "the certificate (for {}) is a router's: only nodes may do this",
            peer.described()
        ))),
        Caller::Certified(_) | Caller::Local => Ok(()),
    }
}

/// Refuses whoever isn't the node of an `rpc` address.
pub fn check_address(caller: &Caller, address: &str) -> Result<(), Status> {
    let Caller::Certified(peer) = caller else {
        return Ok(());
    };
    if host_of(address).is_some_and(|host| peer.names(host)) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "the certificate names {}, and can't be used for the node at {address}",
        peer.described()
    )))
}

/// Refuses whoever isn't node `from`. A number that isn't known here is noted, to be asked about.
pub(super) fn check_number(caller: &Caller, from: NodeId, peers: &Peers) -> Result<(), Status> {
    if let Caller::Local = caller {
        return Ok(());
    }
    check_node(caller)?;
    match peers.address_of(from) {
        Some(address) => check_address(caller, &address),
        None => {
            peers.note_stranger();
            Err(Status::unavailable(format!(
                "this node knows no node {from}, or not yet"
            )))
        }
    }
}

/// Refuses nodes whose certificates name no member: not even users' requests are taken from them.
pub(super) fn check_bringer(caller: &Caller, peers: &Peers) -> Result<(), Status> {
    match caller {
        Caller::Certified(peer) if peer.is_node() && !peers.any_at(|host| peer.names(host)) => {
            Err(Status::permission_denied(format!(
                "the certificate names {}, where no node of the cluster is",
                peer.described()
            )))
        }
        Caller::Certified(_) | Caller::Local => Ok(()),
    }
}

/// Ends when it turns out that the caller isn't node `from`.
pub(super) async fn unmasked(caller: Caller, from: NodeId, peers: &Peers) -> Status {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(refused) = check_number(&caller, from, peers) {
            return refused;
        }
    }
}
