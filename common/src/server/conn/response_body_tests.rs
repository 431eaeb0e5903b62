//! Response bodies of all lengths, and the accounting of their bytes.

use std::collections::VecDeque;
use std::convert::Infallible;

use futures_util::FutureExt;
use http_body::Body as _;

use super::*;
use crate::server::client_addresses::ClientAddresses;
use crate::server::conn::response_budget::UNCOUNTED_BYTES;
use crate::server::conn::state::ConnectionState;
use crate::server::memory_budget::MemoryBudget;

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

struct Fixture {
    state: Arc<ConnectionState>,
    memory: Arc<MemoryBudget>,
    budget: Arc<ResponseBudget>,
}

fn fixture(limit: usize) -> Fixture {
    let (state, memory) = (
        Arc::<ConnectionState>::default(),
        Arc::new(MemoryBudget::new(usize::MAX)),
    );
    let budget = ResponseBudget::new(Arc::clone(&state), Arc::clone(&memory), None, limit);
    Fixture {
        state,
        memory,
        budget: Arc::new(budget),
    }
}

/// Returns the next chunk, if it is ready.
fn next_chunk(body: &mut ResponseBody<Source>) -> Option<Option<ResponseChunk>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let frame = frame.now_or_never()?;
    Some(frame.map(|frame| frame.unwrap().into_data().unwrap()))
}

#[test]
fn a_body_over_http2_is_sent_in_chunks_and_counts_until_the_last_is_dropped() {
    let Fixture {
        state,
        memory,
        budget,
    } = fixture(1 << 20);
    let bytes = 2 * MAX_CHUNK_BYTES + 5;
    let permit = budget.acquire(bytes, false).unwrap();
    let mut body = ResponseBody::counted(source(&[bytes]), permit, true);
    let mut chunks = vec![];
    while !body.is_end_stream() {
        chunks.push(next_chunk(&mut body).unwrap().unwrap());
    }
    let sizes: Vec<_> = chunks.iter().map(Buf::remaining).collect();
    assert_eq!(sizes, [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 5]);
    drop(body);
    chunks[0].advance(MAX_CHUNK_BYTES);
    chunks.drain(..2);
    assert_eq!(
        (state.pending_bytes(), state.activity().sent_chunks),
        (bytes, 1)
    );
    assert!(memory.used_bytes() >= bytes - UNCOUNTED_BYTES);
    chunks.clear();
    assert_eq!(
        (
            state.pending_bytes(),
            memory.used_bytes(),
            state.activity().sent_chunks
        ),
        (0, 0, 1)
    );
}

#[test]
fn a_body_over_http1_is_sent_as_one_chunk() {
    let Fixture { state, budget, .. } = fixture(1 << 20);
    let permit = budget.acquire(1 << 20, false).unwrap();
    let mut body = ResponseBody::counted(source(&[1 << 20]), permit, false);
    let chunk = next_chunk(&mut body).unwrap().unwrap();
    assert_eq!((chunk.remaining(), body.is_end_stream()), (1 << 20, true));
    drop(body);
    assert_eq!(state.pending_bytes(), 1 << 20, "hyper has it");
    drop(chunk);
    assert_eq!(state.pending_bytes(), 0);
}

#[test]
fn dropped_bodies_are_not_counted() {
    let Fixture { state, budget, .. } = fixture(1 << 20);
    let permit = budget.acquire(100_000, false).unwrap();
    drop(ResponseBody::counted(source(&[100_000]), permit, true));
    assert_eq!(state.pending_bytes(), 0);
    let mut uncounted = ResponseBody::uncounted(source(&[5]));
    assert_eq!(next_chunk(&mut uncounted).unwrap().unwrap().remaining(), 5);
    assert!(next_chunk(&mut uncounted).unwrap().is_none());
}

#[test]
fn a_streaming_body_is_not_polled_while_the_budget_is_full() {
    let Fixture { state, budget, .. } = fixture(1000);
    let mut body = ResponseBody::streaming(source(&[600, 600, 600]), budget, None, true);
    let first = next_chunk(&mut body).unwrap().unwrap();
    let second = next_chunk(&mut body).unwrap().unwrap();
    assert_eq!(state.pending_bytes(), 1200);
    assert!(next_chunk(&mut body).is_none(), "it waits");
    drop(first);
    assert!(next_chunk(&mut body).unwrap().is_some());
    drop(second);
    assert!(next_chunk(&mut body).unwrap().is_none());
    assert_eq!(state.pending_bytes(), 0);
}

#[test]
fn a_streaming_body_counts_as_a_request_until_it_is_dropped() {
    let Fixture {
        state,
        memory,
        budget,
    } = fixture(1000);
    let address = ClientAddresses::default().get_or_insert("1.1.1.1".parse().unwrap());
    let permit = address.begin_request(1);
    assert!(permit.is_some());
    let mut body = ResponseBody::streaming(source(&[5]), budget, permit, false);
    drop(next_chunk(&mut body));
    assert_eq!((state.activity().running, state.idle_since()), (1, None));
    assert!(address.begin_request(1).is_none());
    // Between its chunks it takes no memory.
    assert_eq!((state.pending_bytes(), memory.used_bytes()), (0, 0));
    drop(body);
    assert_eq!(state.activity().running, 0);
    assert!(address.begin_request(1).is_some());
}
