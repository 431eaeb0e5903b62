//! Response body, whose bytes are counted as long as they are pending.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::futures::OwnedNotified;

use crate::server::conn::held::{Account, Hold};

/// Maximum size of a chunk over HTTP/2: bytes that HTTP/2 has taken aren't timed by stream any
/// more.
const PIECE_BYTES: usize = 16 << 10;

/// Body of a response.
pub(crate) struct Outbound<B> {
    source: B,
    counting: Counting,
    /// Bytes that came from the source, and weren't handed out yet.
    rest: Bytes,
    /// True if it is sent in chunks.
    http2: bool,
}

/// Accounting of a body's bytes.
enum Counting {
    /// Body that isn't counted: it is small, or has no bytes.
    Free,
    /// Body that was counted as a whole, before its first byte.
    Whole(Hold),
    /// Body that was counted as a whole, and is sent in several chunks.
    Pieces(Arc<Hold>),
    /// Body whose bytes are counted as they come.
    Coming(Box<Coming>),
}

struct Coming {
    account: Arc<Account>,
    room: Option<Pin<Box<OwnedNotified>>>,
}

/// Bytes of a response, counted until they are dropped.
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
    /// Creates a body that isn't counted.
    pub(crate) fn free(source: B) -> Self {
        Self::new(source, Counting::Free, false)
    }

    /// Creates a body that was counted as a whole.
    pub(crate) fn whole(source: B, permit: Hold, http2: bool) -> Self {
        Self::new(source, Counting::Whole(permit), http2)
    }

    /// Creates a body of unknown length: it isn't polled while its connection's responses reach
    /// their limit.
    pub(crate) fn coming(source: B, budget: Arc<Account>, http2: bool) -> Self {
        let streaming = Coming {
            account: budget,
            room: None,
        };
        Self::new(source, Counting::Coming(Box::new(streaming)), http2)
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
    /// Returns the next chunk of the unsent bytes.
    fn next_piece(&mut self) -> Piece {
        let limit = if self.http2 { PIECE_BYTES } else { usize::MAX };
        let bytes = self.rest.split_to(self.rest.len().min(limit));
        let permit = match &self.counting {
            Counting::Pieces(permit) => Keep::Shared(Arc::clone(permit)),
            Counting::Free | Counting::Whole(_) | Counting::Coming(_) => Keep::Nothing,
        };
        Piece {
            bytes,
            keep: permit,
        }
    }

    /// Takes bytes of the source, `last` if none follow, and returns the first chunk.
    fn take(&mut self, data: Bytes, last: bool) -> Piece {
        let fits = !self.http2 || data.len() <= PIECE_BYTES;
        match std::mem::replace(&mut self.counting, Counting::Free) {
            Counting::Whole(permit) if fits && last => {
                let keep = Keep::Alone(permit);
                return Piece { bytes: data, keep };
            }
            Counting::Whole(permit) => self.counting = Counting::Pieces(Arc::new(permit)),
            Counting::Coming(streaming) => {
                // The bytes exist already, so they are counted whether they fit or not. They aren't
                // split: their number is bounded by the buffer that they come through.
                let permit = streaming.account.hold(data.len(), true);
                let keep = permit.map_or(Keep::Nothing, Keep::Alone);
                self.counting = Counting::Coming(streaming);
                return Piece { bytes: data, keep };
            }
            accounting => self.counting = accounting,
        }
        self.rest = data;
        self.next_piece()
    }
}

impl Coming {
    /// Waits until the source may be polled.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.account.is_full() {
                self.room = None;
                return Poll::Ready(());
            }
            let notify = self.account.wait_for_room();
            let is_new = self.room.is_none();
            let released = self
                .room
                .get_or_insert_with(|| Box::pin(Arc::clone(notify).notified_owned()));
            if released.as_mut().poll(cx).is_ready() {
                self.room = None;
            } else if !is_new || self.account.is_full() {
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
        if let Counting::Coming(streaming) = &mut this.counting {
            ready!(streaming.poll_room(cx));
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
        // The hint is read before the first byte only.
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
            Keep::Alone(permit) => permit.went(),
            Keep::Shared(permit) => permit.went(),
        }
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
