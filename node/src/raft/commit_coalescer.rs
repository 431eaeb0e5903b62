//! Coalesces notifications of a commit with the next entries.
//!
//! When entries are committed, openraft notifies each member by a message without entries, unless
//! more entries are ready. Under load that is every second message of a group, and costs both sides
//! as much as one that carries entries. Only readers of a follower wait for it to apply what its
//! leader has applied, so such a notification is delayed briefly, and dropped if a later message
//! carries the same commit index or a later one.
//!
//! Invariant: a message is delayed only if one that ended with the same entry was sent before it in
//! this stream. So the first message of a stream, a probe of a member's log position, and a
//! heartbeat are sent at once. A message is dropped only for a later one, which carries the same
//! commit or a later one, or together with its stream. After that a heartbeat carries the commit,
//! though not to a member that was removed: the interval between the steps of a membership change
//! (`cluster/placement_controller`) has to be far longer than `max_delay`, as has the time that a
//! follower waits for its leader.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Fuse, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::types::{LogId, StateMachine, TypeConfig};

/// Delays notifications of commits, each by at most `max_delay`.
pub(super) struct CommitCoalescer<M: StateMachine, S> {
    input: Fuse<S>,
    max_delay: Duration,
    delayed: Option<AppendEntriesRequest<TypeConfig<M>>>,
    deadline: Pin<Box<Sleep>>,
    /// Last entry of the message sent last; `None` before the first message.
    last_sent: Option<Option<LogId>>,
}

impl<M, S> CommitCoalescer<M, S>
where
    M: StateMachine,
    S: Stream<Item = AppendEntriesRequest<TypeConfig<M>>> + Unpin,
{
    /// Wraps `input`, without the notifications that later messages replace.
    pub(super) fn new(input: S, max_delay: Duration) -> Self {
        Self {
            input: input.fuse(),
            max_delay,
            delayed: None,
            deadline: Box::pin(sleep_until(Instant::now())),
            last_sent: None,
        }
    }

    fn delay(&mut self, message: AppendEntriesRequest<TypeConfig<M>>) {
        if self.delayed.is_none() {
            self.deadline
                .as_mut()
                .reset(Instant::now() + self.max_delay);
        }
        self.delayed = Some(message);
    }

    fn forward(
        &mut self,
        message: AppendEntriesRequest<TypeConfig<M>>,
    ) -> AppendEntriesRequest<TypeConfig<M>> {
        self.delayed = None;
        let last = message.entries.last().map(|entry| entry.log_id);
        self.last_sent = Some(last.or(message.prev_log_id));
        message
    }
}

impl<M, S> Stream for CommitCoalescer<M, S>
where
    M: StateMachine,
    S: Stream<Item = AppendEntriesRequest<TypeConfig<M>>> + Unpin,
{
    type Item = AppendEntriesRequest<TypeConfig<M>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.input.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => {
                    let is_notification = message.entries.is_empty() && !this.max_delay.is_zero();
                    if is_notification && this.last_sent == Some(message.prev_log_id) {
                        this.delay(message);
                    } else {
                        return Poll::Ready(Some(this.forward(message)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(this.delayed.take()),
                Poll::Pending => break,
            }
        }
        if this.delayed.is_some() && this.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(this.delayed.take());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use openraft::EntryPayload;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::super::codec::log_id;
    use super::super::types::{Entry, Vote};
    use super::*;
    use crate::shard::Shard;
    use crate::types::NodeId;

    type Message = AppendEntriesRequest<TypeConfig<Shard>>;

    const NEVER: Duration = Duration::from_secs(3600);

    /// A message that carries the entries after `previous` up to `last`, and the commit index.
    fn message(previous: u64, last: u64, commit: u64) -> Message {
        let entries = (previous + 1..=last).map(|index| Entry::<Shard> {
            log_id: log_id(1, index),
            payload: EntryPayload::Blank,
        });
        Message {
            vote: Vote::new(1, NodeId::from(1)),
            prev_log_id: Some(log_id(1, previous)),
            entries: entries.collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn coalescer(
        max_delay: Duration,
    ) -> (
        mpsc::UnboundedSender<Message>,
        CommitCoalescer<Shard, UnboundedReceiverStream<Message>>,
    ) {
        let (send, receive) = mpsc::unbounded_channel();
        let input = UnboundedReceiverStream::new(receive);
        (send, CommitCoalescer::new(input, max_delay))
    }

    /// Returns the next message if it is ready: previous index, number of entries, commit index.
    fn next_ready(
        out: &mut CommitCoalescer<Shard, UnboundedReceiverStream<Message>>,
    ) -> Option<(u64, usize, u64)> {
        let message = out.next().now_or_never()??;
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Some((
            index(message.prev_log_id),
            message.entries.len(),
            index(message.leader_commit),
        ))
    }

    #[tokio::test]
    async fn a_commit_is_sent_with_the_next_entries() {
        let (send, mut out) = coalescer(NEVER);
        send.send(message(5, 6, 5)).unwrap();
        assert_eq!(next_ready(&mut out), Some((5, 1, 5)));
        send.send(message(6, 6, 6)).unwrap();
        assert_eq!(next_ready(&mut out), None, "it is delayed");
        send.send(message(6, 8, 6)).unwrap();
        assert_eq!(next_ready(&mut out), Some((6, 2, 6)));
        assert_eq!(next_ready(&mut out), None, "and sent once");
    }

    #[tokio::test]
    async fn a_commit_is_sent_alone_after_the_delay() {
        let (send, mut out) = coalescer(Duration::from_millis(1));
        for commit in [message(5, 6, 5), message(6, 6, 5), message(6, 6, 6)] {
            send.send(commit).unwrap();
        }
        assert_eq!(next_ready(&mut out), Some((5, 1, 5)));
        let last = out.next().await.unwrap();
        assert_eq!(last.leader_commit, Some(log_id(1, 6)), "the newest");
        assert_eq!(next_ready(&mut out), None);
    }

    #[tokio::test]
    async fn a_probe_is_sent_at_once() {
        let (send, mut out) = coalescer(NEVER);
        send.send(message(5, 5, 5)).unwrap();
        assert_eq!(next_ready(&mut out), Some((5, 0, 5)), "the first");
        send.send(message(3, 3, 5)).unwrap();
        assert_eq!(next_ready(&mut out), Some((3, 0, 5)), "at another position");
    }

    #[tokio::test]
    async fn a_delayed_message_is_sent_when_the_stream_ends() {
        let (send, mut out) = coalescer(NEVER);
        send.send(message(5, 6, 5)).unwrap();
        send.send(message(6, 6, 6)).unwrap();
        drop(send);
        assert_eq!(next_ready(&mut out), Some((5, 1, 5)));
        assert_eq!(next_ready(&mut out), Some((6, 0, 6)));
        assert!(out.next().await.is_none());
    }

    #[tokio::test]
    async fn without_a_delay_every_message_is_sent_at_once() {
        let (send, mut out) = coalescer(Duration::ZERO);
        send.send(message(5, 6, 5)).unwrap();
        send.send(message(6, 6, 6)).unwrap();
        assert_eq!(next_ready(&mut out), Some((5, 1, 5)));
        assert_eq!(next_ready(&mut out), Some((6, 0, 6)));
    }
}
