//! Response bodies of all lengths, and the accounting of their bytes.

use std::collections::VecDeque;
use std::convert::Infallible;

use futures_util::FutureExt;
use http_body::Body as _;

use super::*;
use crate::server::conn::held::FREE_BYTES;
use crate::server::conn::pulse::Pulse;
use crate::server::memory::Memory;

/// Body of these chunks.
struct Source(VecDeque<Bytes>);

impl Body for Source {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn source(sizes: &[usize]) -> Source {
    let chunks = sizes.iter().map(|bytes| Bytes::from(vec![b'v'; *bytes]));
    Source(chunks.collect())
}

struct Counted {
    pulse: Arc<Pulse>,
    memory: Arc<Memory>,
    account: Arc<Account>,
}

fn counted(limit: usize) -> Counted {
    let (state, memory) = (Arc::<Pulse>::default(), Arc::new(Memory::new(usize::MAX)));
    let budget = Account::new(Arc::clone(&state), Arc::clone(&memory), None, limit);
    Counted {
        pulse: state,
        memory,
        account: Arc::new(budget),
    }
}

/// Returns the next chunk, if it is ready.
fn next(body: &mut Outbound<Source>) -> Option<Option<Piece>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let frame = frame.now_or_never()?;
    Some(frame.map(|frame| frame.unwrap().into_data().unwrap()))
}

#[test]
fn a_body_over_http2_is_sent_in_chunks_and_counts_until_the_last_is_dropped() {
    let Counted {
        pulse: state,
        memory,
        account: budget,
    } = counted(1 << 20);
    let bytes = 2 * PIECE_BYTES + 5;
    let permit = budget.hold(bytes, false).unwrap();
    let mut body = Outbound::whole(source(&[bytes]), permit, true);
    let mut chunks = vec![];
    while !body.is_end_stream() {
        chunks.push(next(&mut body).unwrap().unwrap());
    }
    let sizes: Vec<_> = chunks.iter().map(Buf::remaining).collect();
    assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 5]);
    drop(body);
    chunks[0].advance(PIECE_BYTES);
    chunks.drain(..2);
    assert_eq!((state.held(), state.marks().parts), (bytes, 1));
    assert!(memory.taken() >= bytes - FREE_BYTES);
    chunks.clear();
    assert_eq!(
        (state.held(), memory.taken(), state.marks().parts),
        (0, 0, 1)
    );
}

#[test]
fn a_body_over_http1_is_sent_as_one_chunk() {
    let Counted {
        pulse: state,
        account: budget,
        ..
    } = counted(1 << 20);
    let permit = budget.hold(1 << 20, false).unwrap();
    let mut body = Outbound::whole(source(&[1 << 20]), permit, false);
    let chunk = next(&mut body).unwrap().unwrap();
    assert_eq!((chunk.remaining(), body.is_end_stream()), (1 << 20, true));
    drop(body);
    assert_eq!(state.held(), 1 << 20, "hyper has it");
    drop(chunk);
    assert_eq!(state.held(), 0);
}

#[test]
fn dropped_bodies_are_not_counted() {
    let Counted {
        pulse: state,
        account: budget,
        ..
    } = counted(1 << 20);
    let permit = budget.hold(100_000, false).unwrap();
    drop(Outbound::whole(source(&[100_000]), permit, true));
    assert_eq!(state.held(), 0);
    let mut uncounted = Outbound::free(source(&[5]));
    assert_eq!(next(&mut uncounted).unwrap().unwrap().remaining(), 5);
    assert!(next(&mut uncounted).unwrap().is_none());
}

#[test]
fn a_streaming_body_is_not_polled_while_the_budget_is_full() {
    let Counted {
        pulse: state,
        account: budget,
        ..
    } = counted(1000);
    let mut body = Outbound::coming(source(&[600, 600, 600]), budget, true);
    let first = next(&mut body).unwrap().unwrap();
    let second = next(&mut body).unwrap().unwrap();
    assert_eq!(state.held(), 1200);
    assert!(next(&mut body).is_none(), "it waits");
    drop(first);
    assert!(next(&mut body).unwrap().is_some());
    drop(second);
    assert!(next(&mut body).unwrap().is_none());
    assert_eq!(state.held(), 0);
}
