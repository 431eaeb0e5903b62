//! Calls of a member at whose address a new node waits to be admitted.

use cloudkv_proto::v1 as pb;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::tests::{OTHER, STATE_TIMEOUT, create_peers};
use super::{Dialer, StreamKind, join, refuse_calls};

#[tokio::test]
async fn callers_of_a_member_learn_that_a_new_node_waits_at_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let conflict = Some("the address belongs to node eu-2".to_owned());
    let (_sender, conflict) = watch::channel(conflict);
    let stop = CancellationToken::new();
    let served = tokio::spawn(refuse_calls(listener, None, conflict, stop.clone()));

    let peers = create_peers(10, 1 << 20);
    peers.set_address(OTHER, &address);
    let mut state = peers.watch_connection(OTHER, StreamKind::Raft).unwrap();
    let first_attempt = tokio::time::timeout(STATE_TIMEOUT, state.changed()).await;
    first_attempt.unwrap().unwrap();
    assert_eq!(
        peers.connection_failure(OTHER).unwrap(),
        "a new node waits at its address to join the cluster: the address belongs to node eu-2"
    );

    // Another new node asks on.
    let request = pb::JoinRequest::default();
    let refused = join(&Dialer::default(), &address, request).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    stop.cancel();
    let served = tokio::time::timeout(STATE_TIMEOUT, served).await;
    served.unwrap().unwrap();
}
