//! News of a commit that goes with the next entries.
//!
//! When entries are committed, openraft tells each member by a message without entries, unless more
//! entries are ready. Under load that is every second message of a group, and costs both sides as
//! much as one that brings entries. Only who reads a follower waits for it to apply what its leader
//! has applied, so such news is held for a moment, and dropped if a later message says as much.
//!
//! Invariant: a message is held only if one that ended with the same entry was sent before it in
//! this stream, so what begins a stream, finds out where a member stands, or is a heartbeat, goes at
//! once; and none is dropped but for a later one, which carries the same commit or a later one, or
//! with its stream. Then a heartbeat brings it, though not to a member that was removed: the pause
//! between the steps of a change of members (`cluster/keeper`) has to be far longer than `patience`,
//! as has the time that a follower waits for its leader.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Fuse, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::types::{LogId, Machine, Types};

/// Holds news of commits back, each for `patience` at most.
pub(super) struct Together<M: Machine, S> {
    input: Fuse<S>,
    patience: Duration,
    held: Option<AppendEntriesRequest<Types<M>>>,
    until: Pin<Box<Sleep>>,
    /// The entry that the last message ended with; `None` before the first message.
    reached: Option<Option<LogId>>,
}

impl<M, S> Together<M, S>
where
    M: Machine,
    S: Stream<Item = AppendEntriesRequest<Types<M>>> + Unpin,
{
    /// The messages of `input`, without news that later ones bring.
    pub(super) fn new(input: S, patience: Duration) -> Self {
        Self {
            input: input.fuse(),
            patience,
            held: None,
            until: Box::pin(sleep_until(Instant::now())),
            reached: None,
        }
    }

    fn hold(&mut self, message: AppendEntriesRequest<Types<M>>) {
        if self.held.is_none() {
            self.until.as_mut().reset(Instant::now() + self.patience);
        }
        self.held = Some(message);
    }

    fn pass(&mut self, message: AppendEntriesRequest<Types<M>>) -> AppendEntriesRequest<Types<M>> {
        self.held = None;
        let last = message.entries.last().map(|entry| entry.log_id);
        self.reached = Some(last.or(message.prev_log_id));
        message
    }
}

impl<M, S> Stream for Together<M, S>
where
    M: Machine,
    S: Stream<Item = AppendEntriesRequest<Types<M>>> + Unpin,
{
    type Item = AppendEntriesRequest<Types<M>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.input.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => {
                    let news = message.entries.is_empty() && !this.patience.is_zero();
                    if news && this.reached == Some(message.prev_log_id) {
                        this.hold(message);
                    } else {
                        return Poll::Ready(Some(this.pass(message)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(this.held.take()),
                Poll::Pending => break,
            }
        }
        if this.held.is_some() && this.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(this.held.take());
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

    type Message = AppendEntriesRequest<Types<Shard>>;

    const NEVER: Duration = Duration::from_secs(3600);

    /// A message that brings the entries after `previous` up to `last`, and says what is committed.
    fn message(previous: u64, last: u64, commit: u64) -> Message {
        let entries = (previous + 1..=last).map(|index| Entry::<Shard> {
            log_id: log_id(1, index),
            payload: EntryPayload::Blank,
        });
        Message {
            vote: Vote::new(1, 1),
            prev_log_id: Some(log_id(1, previous)),
            entries: entries.collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn together(
        patience: Duration,
    ) -> (
        mpsc::UnboundedSender<Message>,
        Together<Shard, UnboundedReceiverStream<Message>>,
    ) {
        let (send, receive) = mpsc::unbounded_channel();
        let input = UnboundedReceiverStream::new(receive);
        (send, Together::new(input, patience))
    }

    /// What comes out now: where it begins, how many entries, what is committed.
    fn ready(
        out: &mut Together<Shard, UnboundedReceiverStream<Message>>,
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
    async fn news_goes_with_the_next_entries() {
        let (send, mut out) = together(NEVER);
        send.send(message(5, 6, 5)).unwrap();
        assert_eq!(ready(&mut out), Some((5, 1, 5)));
        send.send(message(6, 6, 6)).unwrap();
        assert_eq!(ready(&mut out), None, "it is held");
        send.send(message(6, 8, 6)).unwrap();
        assert_eq!(ready(&mut out), Some((6, 2, 6)));
        assert_eq!(ready(&mut out), None, "and said once");
    }

    #[tokio::test]
    async fn news_goes_alone_when_nothing_comes() {
        let (send, mut out) = together(Duration::from_millis(1));
        for news in [message(5, 6, 5), message(6, 6, 5), message(6, 6, 6)] {
            send.send(news).unwrap();
        }
        assert_eq!(ready(&mut out), Some((5, 1, 5)));
        let last = out.next().await.unwrap();
        assert_eq!(last.leader_commit, Some(log_id(1, 6)), "the newest");
        assert_eq!(ready(&mut out), None);
    }

    #[tokio::test]
    async fn what_asks_where_a_member_stands_goes_at_once() {
        let (send, mut out) = together(NEVER);
        send.send(message(5, 5, 5)).unwrap();
        assert_eq!(ready(&mut out), Some((5, 0, 5)), "the first");
        send.send(message(3, 3, 5)).unwrap();
        assert_eq!(ready(&mut out), Some((3, 0, 5)), "of another position");
    }

    #[tokio::test]
    async fn what_is_held_at_the_end_is_sent() {
        let (send, mut out) = together(NEVER);
        send.send(message(5, 6, 5)).unwrap();
        send.send(message(6, 6, 6)).unwrap();
        drop(send);
        assert_eq!(ready(&mut out), Some((5, 1, 5)));
        assert_eq!(ready(&mut out), Some((6, 0, 6)));
        assert!(out.next().await.is_none());
    }

    #[tokio::test]
    async fn without_patience_nothing_is_held() {
        let (send, mut out) = together(Duration::ZERO);
        send.send(message(5, 6, 5)).unwrap();
        send.send(message(6, 6, 6)).unwrap();
        assert_eq!(ready(&mut out), Some((5, 1, 5)));
        assert_eq!(ready(&mut out), Some((6, 0, 6)));
    }
}
