//! Queries to the core of Raft, which alone knows the state in force: metrics lag behind it.

use openraft::{Raft, RaftState};
use tokio::sync::oneshot;

use super::replica::Replica;
use super::types::{StateMachine, TypeConfig};

/// Raft's own state of a group.
pub(super) type CoreState<M> = RaftState<TypeConfig<M>>;

/// Evaluates `query` on Raft's state, after everything that was sent to the core before has been
/// processed. Returns `None` once Raft has stopped.
///
/// Cancel safe: openraft's own `with_raft_state` treats a result that nobody waits for as an error,
/// and logs it as one.
pub(super) async fn query_state<M, V>(
    raft: &Raft<TypeConfig<M>, Replica<M>>,
    query: impl FnOnce(&CoreState<M>) -> V + Send + 'static,
) -> Option<V>
where
    M: StateMachine,
    V: Send + 'static,
{
    let (result, receiver) = oneshot::channel();
    let sent = raft.external_request(move |state| {
        let _ = result.send(query(state));
    });
    sent.await.ok()?;
    receiver.await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tracing::{Event, Level, Subscriber};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;
    use crate::raft::snapshot_receiver_tests::group;

    /// Counts logged errors.
    #[derive(Clone, Default)]
    struct ErrorCounter(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for ErrorCounter {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if *event.metadata().level() == Level::ERROR {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    // All on one thread: the core of Raft runs only while the test awaits.
    #[tokio::test]
    async fn a_query_may_be_dropped_before_its_result() {
        let errors = ErrorCounter::default();
        let logged = tracing_subscriber::registry().with(errors.clone());
        let _guard = tracing::subscriber::set_default(logged);
        let dir = tempfile::tempdir().unwrap();
        let group = group(&dir).await;
        let dropped = query_state(group.raft(), |_| ()).now_or_never();
        assert_eq!(dropped, None, "the core answered before the test awaited");
        let last = query_state(group.raft(), |state| state.log_ids.last().copied());
        assert_eq!(last.await, Some(None));
        assert_eq!(errors.0.load(Ordering::Relaxed), 0);
        group.stop().await.unwrap();
        assert_eq!(query_state(group.raft(), |_| ()).await, None);
    }
}
