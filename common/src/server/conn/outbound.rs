//! The body of an answer on its way out, which is counted as long as it waits.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::futures::OwnedNotified;

use crate::server::conn::held::{Account, Hold};

/// Largest piece that HTTP/2 gets at once: what it has isn't timed any more, stream by stream.
const PIECE_BYTES: usize = 16 << 10;

/// An answer's body.
pub(crate) struct Outbound<B> {
    source: B,
    counting: Counting,
    /// What came from the source, and wasn't handed out yet.
    rest: Bytes,
    /// Whether it goes in pieces.
    http2: bool,
}

/// How a body is counted.
enum Counting {
    /// Not: it is small, or has no bytes.
    Free,
    /// As a whole, before its first byte.
    Whole(Hold),
    /// As a whole, and it goes in several pieces.
    Pieces(Arc<Hold>),
    /// As it comes.
    Coming(Box<Coming>),
}

struct Coming {
    account: Arc<Account>,
    room: Option<Pin<Box<OwnedNotified>>>,
}

/// Bytes of an answer; they count until they are dropped.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    keep: Keep,
}

#[derive(Debug)]
enum Keep {
    Nothing,
    Alone(Hold),
    Shared(Arc<Hold>),
}

impl<B: Body<Data = Bytes>> Outbound<B> {
    /// A body that isn't counted.
    pub(crate) fn free(source: B) -> Self {
        Self::new(source, Counting::Free, false)
    }

    /// A body that was counted as a whole.
    pub(crate) fn whole(source: B, hold: Hold, http2: bool) -> Self {
        Self::new(source, Counting::Whole(hold), http2)
    }

    /// A body whose length isn't known: no more of it is asked for while its connection's answers reach
    /// their limit.
    pub(crate) fn coming(source: B, account: Arc<Account>, http2: bool) -> Self {
        let coming = Coming {
            account,
            room: None,
        };
        Self::new(source, Counting::Coming(Box::new(coming)), http2)
    }

    fn new(source: B, counting: Counting, http2: bool) -> Self {
        Self {
            source,
            counting,
            rest: Bytes::new(),
            http2,
        }
    }
}

impl<B> Outbound<B> {
    /// The next piece of what has come.
    fn next_piece(&mut self) -> Piece {
        let most = if self.http2 { PIECE_BYTES } else { usize::MAX };
        let bytes = self.rest.split_to(self.rest.len().min(most));
        let keep = match &self.counting {
            Counting::Pieces(hold) => Keep::Shared(Arc::clone(hold)),
            Counting::Free | Counting::Whole(_) | Counting::Coming(_) => Keep::Nothing,
        };
        Piece { bytes, keep }
    }

    /// What has come from the source; `last` if nothing follows.
    fn take(&mut self, data: Bytes, last: bool) -> Piece {
        let fits = !self.http2 || data.len() <= PIECE_BYTES;
        match std::mem::replace(&mut self.counting, Counting::Free) {
            Counting::Whole(hold) if fits && last => {
                let keep = Keep::Alone(hold);
                return Piece { bytes: data, keep };
            }
            Counting::Whole(hold) => self.counting = Counting::Pieces(Arc::new(hold)),
            Counting::Coming(coming) => {
                // It is there already, so it is counted whether it fits or not. It isn't split: what
                // comes at once is bounded by the buffer that it comes through.
                let hold = coming.account.hold(data.len(), true);
                let keep = hold.map_or(Keep::Nothing, Keep::Alone);
                self.counting = Counting::Coming(coming);
                return Piece { bytes: data, keep };
            }
            counting => self.counting = counting,
        }
        self.rest = data;
        self.next_piece()
    }
}

impl Coming {
    /// Waits until more may be asked for.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.account.is_full() {
                self.room = None;
                return Poll::Ready(());
            }
            let notify = self.account.wait_for_room();
            let fresh = self.room.is_none();
            let room = self
                .room
                .get_or_insert_with(|| Box::pin(Arc::clone(notify).notified_owned()));
            if room.as_mut().poll(cx).is_ready() {
                self.room = None;
            } else if !fresh || self.account.is_full() {
                return Poll::Pending;
            }
        }
    }
}

impl<B> Body for Outbound<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.next_piece()))));
        }
        if let Counting::Coming(coming) = &mut this.counting {
            ready!(coming.poll_room(cx));
        }
        let frame = match ready!(Pin::new(&mut this.source).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => frame,
        };
        let frame = match frame.into_data() {
            Ok(data) => Frame::data(this.take(data, this.source.is_end_stream())),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(trailers),
                // There is no third kind.
                Err(_) => return Poll::Ready(None),
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It counts before the first byte only.
        self.source.size_hint()
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        match &self.keep {
            Keep::Nothing => {}
            Keep::Alone(hold) => hold.went(),
            Keep::Shared(hold) => hold.went(),
        }
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
