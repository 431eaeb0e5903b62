//! Bodies of answers, of all lengths, and what is counted of them.

use std::collections::VecDeque;
use std::convert::Infallible;

use futures_util::FutureExt;
use http_body::Body as _;

use super::*;
use crate::server::conn::held::FREE_BYTES;
use crate::server::conn::pulse::Pulse;
use crate::server::memory::Memory;

/// A body of these pieces.
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

fn source(pieces: &[usize]) -> Source {
    let pieces = pieces.iter().map(|bytes| Bytes::from(vec![b'v'; *bytes]));
    Source(pieces.collect())
}

struct Counted {
    pulse: Arc<Pulse>,
    memory: Arc<Memory>,
    account: Arc<Account>,
}

fn counted(limit: usize) -> Counted {
    let (pulse, memory) = (Arc::<Pulse>::default(), Arc::new(Memory::new(usize::MAX)));
    let account = Account::new(Arc::clone(&pulse), Arc::clone(&memory), None, limit);
    let account = Arc::new(account);
    Counted {
        pulse,
        memory,
        account,
    }
}

/// The next piece, if it is there.
fn next(body: &mut Outbound<Source>) -> Option<Option<Piece>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let frame = frame.now_or_never()?;
    Some(frame.map(|frame| frame.unwrap().into_data().unwrap()))
}

#[test]
fn a_body_over_http2_goes_in_pieces_and_counts_until_the_last_has_gone() {
    let Counted {
        pulse,
        memory,
        account,
    } = counted(1 << 20);
    let bytes = 2 * PIECE_BYTES + 5;
    let hold = account.hold(bytes, false).unwrap();
    let mut body = Outbound::whole(source(&[bytes]), hold, true);
    let mut pieces = vec![];
    while !body.is_end_stream() {
        pieces.push(next(&mut body).unwrap().unwrap());
    }
    let sizes: Vec<_> = pieces.iter().map(Buf::remaining).collect();
    assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 5]);
    drop(body);
    pieces[0].advance(PIECE_BYTES);
    pieces.drain(..2);
    assert_eq!((pulse.held(), pulse.marks().parts), (bytes, 1));
    assert!(memory.taken() >= bytes - FREE_BYTES);
    pieces.clear();
    assert_eq!(
        (pulse.held(), memory.taken(), pulse.marks().parts),
        (0, 0, 1)
    );
}

#[test]
fn a_body_over_http1_goes_as_it_is() {
    let Counted { pulse, account, .. } = counted(1 << 20);
    let hold = account.hold(1 << 20, false).unwrap();
    let mut body = Outbound::whole(source(&[1 << 20]), hold, false);
    let piece = next(&mut body).unwrap().unwrap();
    assert_eq!((piece.remaining(), body.is_end_stream()), (1 << 20, true));
    drop(body);
    assert_eq!(pulse.held(), 1 << 20, "hyper has it");
    drop(piece);
    assert_eq!(pulse.held(), 0);
}

#[test]
fn bodies_that_were_never_sent_dont_count_any_more() {
    let Counted { pulse, account, .. } = counted(1 << 20);
    let hold = account.hold(100_000, false).unwrap();
    drop(Outbound::whole(source(&[100_000]), hold, true));
    assert_eq!(pulse.held(), 0);
    let mut free = Outbound::free(source(&[5]));
    assert_eq!(next(&mut free).unwrap().unwrap().remaining(), 5);
    assert!(next(&mut free).unwrap().is_none());
}

#[test]
fn no_more_is_asked_for_of_a_body_while_too_much_waits() {
    let Counted { pulse, account, .. } = counted(1000);
    let mut body = Outbound::coming(source(&[600, 600, 600]), account, true);
    let first = next(&mut body).unwrap().unwrap();
    let second = next(&mut body).unwrap().unwrap();
    assert_eq!(pulse.held(), 1200);
    assert!(next(&mut body).is_none(), "it waits");
    drop(first);
    assert!(next(&mut body).unwrap().is_some());
    drop(second);
    assert!(next(&mut body).unwrap().is_none());
    assert_eq!(pulse.held(), 0);
}
