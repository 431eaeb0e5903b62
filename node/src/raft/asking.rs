//! Questions to the core of Raft, which alone knows what is in force: metrics lag.

use openraft::{Raft, RaftState};
use tokio::sync::oneshot;

use super::replica::Replica;
use super::types::{Machine, Types};

/// Raft's own state of a group.
pub(super) type RaftStateOf<M> = RaftState<Types<M>>;

/// What `question` finds in Raft's state, after all that the core was sent before was looked at;
/// `None` once Raft has stopped.
///
/// Whoever asks may go away: openraft's own `with_raft_state` calls an answer that nobody waits for
/// an error, and logs it as one.
pub(super) async fn ask<M, V>(
    raft: &Raft<Types<M>, Replica<M>>,
    question: impl FnOnce(&RaftStateOf<M>) -> V + Send + 'static,
) -> Option<V>
where
    M: Machine,
    V: Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let asked = raft.external_request(move |state| {
        let _ = answer.send(question(state));
    });
    asked.await.ok()?;
    answered.await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tracing::{Event, Level, Subscriber};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;
    use crate::raft::reception_tests::group;

    /// Counts the errors that are logged.
    #[derive(Clone, Default)]
    struct Errors(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Errors {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if *event.metadata().level() == Level::ERROR {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    // All on one thread: the core of Raft has its turn only when the test waits.
    #[tokio::test]
    async fn who_asks_may_go_away() {
        let errors = Errors::default();
        let logged = tracing_subscriber::registry().with(errors.clone());
        let _guard = tracing::subscriber::set_default(logged);
        let dir = tempfile::tempdir().unwrap();
        let group = group(&dir).await;
        let gone = ask(group.raft(), |_| ()).now_or_never();
        assert_eq!(gone, None, "the core has answered before anybody waited");
        let answer = ask(group.raft(), |state| state.log_ids.last().copied());
        assert_eq!(answer.await, Some(None));
        assert_eq!(errors.0.load(Ordering::Relaxed), 0);
        group.stop().await.unwrap();
        assert_eq!(ask(group.raft(), |_| ()).await, None);
    }
}
