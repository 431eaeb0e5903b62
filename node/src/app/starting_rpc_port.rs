//! The rpc port of a new node that isn't admitted because its address belongs to a member.
//!
//! The port is bound before the node is admitted, so that an address in use is told at once. The
//! nodes that call the member there would wait in vain for a greeting, and their operators wouldn't
//! learn why. An ordinary start doesn't answer: those who call wait until the node serves.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use cloudkv_common::process::SystemError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::errors::RunError;
use crate::rpc::{Tls, refuse_calls};

/// The rpc port of a node that starts. It is served until this is closed or dropped.
pub(super) struct StartingRpcPort {
    stop: DropGuard,
    served: Option<JoinHandle<()>>,
}

impl StartingRpcPort {
    /// Serves a clone of the listener, if there is one, once there is an address conflict.
    pub(super) fn open(
        listener: Option<&TcpListener>,
        tls: Option<Arc<Tls>>,
        conflict: watch::Receiver<Option<String>>,
        tasks: &TaskTracker,
    ) -> Result<Self, RunError> {
        let clone = listener.map(clone_listener).transpose();
        let clone = clone.map_err(SystemError::while_doing("listen"))?;
        let stop = CancellationToken::new();
        let served = clone
            .map(|listener| tasks.spawn(refuse_in_conflict(listener, tls, conflict, stop.clone())));
        Ok(Self {
            stop: stop.drop_guard(),
            served,
        })
    }

    /// Ends the connections, and leaves new ones to the listener itself.
    pub(super) async fn close(self) {
        drop(self.stop);
        if let Some(served) = self.served
            && let Err(error) = served.await
            && !error.is_cancelled()
        {
            tracing::warn!(%error, "refusing other nodes during the start failed");
        }
    }
}

/// Returns a second handle of a listener's socket.
fn clone_listener(listener: &TcpListener) -> io::Result<TcpListener> {
    let socket = listener.as_fd().try_clone_to_owned()?;
    TcpListener::from_std(socket.into())
}

/// Waits for an address conflict, and refuses calls while it lasts; until `stop`.
async fn refuse_in_conflict(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    mut conflict: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) {
    let conflict_arises = async { conflict.wait_for(Option::is_some).await.is_ok() };
    if stop.run_until_cancelled(conflict_arises).await != Some(true) {
        return;
    }
    let (over, mut changes) = (stop.child_token(), conflict.clone());
    let refused = refuse_calls(listener, tls, conflict, over.clone());
    let conflict_ends = async {
        let ends = async { changes.wait_for(Option::is_none).await.is_ok() };
        over.run_until_cancelled(ends).await;
        over.cancel();
    };
    tokio::join!(refused, conflict_ends);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cloudkv_proto::v1 as pb;
    use tokio::net::TcpStream;

    use super::*;
    use crate::rpc::{Dialer, join};

    const STATE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Connects to a listener's port, and accepts that connection by the listener itself.
    async fn assert_accepts(listener: &TcpListener) {
        let address = listener.local_addr().unwrap();
        let both = async { tokio::join!(TcpStream::connect(address), listener.accept()) };
        let both = tokio::time::timeout(STATE_TIMEOUT, both).await;
        let (connected, accepted) = both.unwrap();
        let (_, from) = accepted.unwrap();
        assert_eq!(connected.unwrap().local_addr().unwrap(), from);
    }

    #[tokio::test]
    async fn a_start_without_a_conflict_leaves_connections_to_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_sender, conflict) = watch::channel(None);
        let tasks = TaskTracker::new();
        let port = StartingRpcPort::open(Some(&listener), None, conflict, &tasks).unwrap();
        assert_accepts(&listener).await;
        port.close().await;
        assert!(tasks.is_empty());
        assert_accepts(&listener).await;
    }

    #[tokio::test]
    async fn calls_are_refused_as_long_as_there_is_a_conflict() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, conflict) = watch::channel(Some("it belongs to node a".to_owned()));
        let tasks = TaskTracker::new();
        let port = StartingRpcPort::open(Some(&listener), None, conflict, &tasks).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let request = pb::JoinRequest::default();
        let refused = join(&Dialer::default(), &address, request).await;
        assert_eq!(
            refused.unwrap_err().message(),
            "this node has not joined a cluster yet"
        );
        sender.send_replace(None);
        tasks.close();
        let ended = tokio::time::timeout(STATE_TIMEOUT, tasks.wait()).await;
        ended.unwrap();
        assert_accepts(&listener).await;
        port.close().await;
    }
}
