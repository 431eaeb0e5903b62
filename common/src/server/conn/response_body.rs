//! Response body, whose bytes are counted as long as they are pending.
//!
//! A body of unknown length may last for hours, with a chunk now and then, as an event stream does.
//! Until its end its request counts as one that is being answered: for its connection, which isn't
//! idle meanwhile, and among those of its client's address.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::futures::OwnedNotified;

use crate::server::client_addresses::RequestPermit;
use crate::server::conn::h2_streams;
use crate::server::conn::response_budget::{ResponseBudget, ResponsePermit};

/// Maximum size of a chunk over HTTP/2: bytes that HTTP/2 has taken aren't timed by stream any
/// more.
const MAX_CHUNK_BYTES: usize = 16 << 10;

/// Body of a response.
pub(crate) struct ResponseBody<B> {
    source: B,
    accounting: Accounting,
    /// Bytes that came from the source, and weren't handed out yet.
    unsent: Bytes,
    /// True if it is sent in chunks.
    is_http2: bool,
}

/// Accounting of a body's bytes.
enum Accounting {
    /// Body that isn't counted: it is small, or has no bytes.
    Uncounted,
    /// Body that was counted as a whole, before its first byte.
    Counted(ResponsePermit),
    /// Body that was counted as a whole, and is sent in several chunks.
    Chunked(Arc<ResponsePermit>),
    /// Body whose bytes are counted as they come.
    Streaming(Box<StreamingBudget>),
}

struct StreamingBudget {
    budget: Arc<ResponseBudget>,
    released: Option<Pin<Box<OwnedNotified>>>,
    /// Permit of the request, which is under way until the body ends.
    _request: Option<RequestPermit>,
}

/// Bytes of a response, counted until they are dropped.
#[derive(Debug)]
pub(crate) struct ResponseChunk {
    bytes: Bytes,
    permit: ChunkPermit,
}

#[derive(Debug)]
enum ChunkPermit {
    Uncounted,
    Owned(ResponsePermit),
    Shared(Arc<ResponsePermit>),
}

impl<B: Body<Data = Bytes>> ResponseBody<B> {
    /// Creates a body that isn't counted.
    pub(crate) fn uncounted(source: B) -> Self {
        Self::new(source, Accounting::Uncounted, false)
    }

    /// Creates a body that was counted as a whole.
    pub(crate) fn counted(source: B, permit: ResponsePermit, http2: bool) -> Self {
        Self::new(source, Accounting::Counted(permit), http2)
    }

    /// Creates a body of unknown length, to a request with this permit: it isn't polled while its
    /// connection's responses reach their limit.
    pub(crate) fn streaming(
        source: B,
        budget: Arc<ResponseBudget>,
        request: Option<RequestPermit>,
        http2: bool,
    ) -> Self {
        budget.begin_stream();
        let streaming = StreamingBudget {
            budget,
            released: None,
            _request: request,
        };
        Self::new(source, Accounting::Streaming(Box::new(streaming)), http2)
    }

    fn new(source: B, accounting: Accounting, is_http2: bool) -> Self {
        Self {
            source,
            accounting,
            unsent: Bytes::new(),
            is_http2,
        }
    }
}

impl<B> ResponseBody<B> {
    /// Returns the next chunk of the unsent bytes.
    fn next_chunk(&mut self) -> ResponseChunk {
        let limit = if self.is_http2 {
            MAX_CHUNK_BYTES
        } else {
            usize::MAX
        };
        let bytes = self.unsent.split_to(self.unsent.len().min(limit));
        let permit = match &self.accounting {
            Accounting::Chunked(permit) => ChunkPermit::Shared(Arc::clone(permit)),
            Accounting::Uncounted | Accounting::Counted(_) | Accounting::Streaming(_) => {
                ChunkPermit::Uncounted
            }
        };
        ResponseChunk { bytes, permit }
    }

    /// Takes bytes of the source, `last` if none follow, and returns the first chunk.
    fn take_data(&mut self, data: Bytes, last: bool) -> ResponseChunk {
        let fits = !self.is_http2 || data.len() <= MAX_CHUNK_BYTES;
        match std::mem::replace(&mut self.accounting, Accounting::Uncounted) {
            Accounting::Counted(permit) if fits && last => {
                let keep = ChunkPermit::Owned(permit);
                return ResponseChunk {
                    bytes: data,
                    permit: keep,
                };
            }
            Accounting::Counted(permit) => self.accounting = Accounting::Chunked(Arc::new(permit)),
            Accounting::Streaming(streaming) => {
                // The bytes exist already, so they are counted whether they fit or not. They aren't
                // split: their number is bounded by the buffer that they come through.
                let permit = streaming.budget.acquire(data.len(), true);
                let keep = permit.map_or(ChunkPermit::Uncounted, ChunkPermit::Owned);
                self.accounting = Accounting::Streaming(streaming);
                return ResponseChunk {
                    bytes: data,
                    permit: keep,
                };
            }
            accounting => self.accounting = accounting,
        }
        self.unsent = data;
        self.next_chunk()
    }
}

impl StreamingBudget {
    /// Waits until the source may be polled.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.budget.is_full() {
                self.released = None;
                return Poll::Ready(());
            }
            let notify = self.budget.subscribe_release();
            let is_new = self.released.is_none();
            let released = self
                .released
                .get_or_insert_with(|| Box::pin(Arc::clone(notify).notified_owned()));
            if released.as_mut().poll(cx).is_ready() {
                self.released = None;
            } else if !is_new || self.budget.is_full() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for StreamingBudget {
    fn drop(&mut self) {
        self.budget.end_stream();
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = ResponseChunk;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ResponseChunk>, B::Error>>> {
        let this = &mut *self;
        if !this.unsent.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.next_chunk()))));
        }
        if let Accounting::Streaming(streaming) = &mut this.accounting {
            ready!(streaming.poll_capacity(cx));
        }
        let polled = Pin::new(&mut this.source).poll_frame(cx);
        if this.is_http2 && polled.is_pending() {
            h2_streams::set_waits_for_source(true);
        }
        let frame = match ready!(polled) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => frame,
        };
        let frame = match frame.into_data() {
            Ok(data) => Frame::data(this.take_data(data, this.source.is_end_stream())),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(trailers),
                // There is no third kind.
                Err(_) => return Poll::Ready(None),
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.unsent.is_empty() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The hint is read before the first byte only.
        self.source.size_hint()
    }
}

impl Buf for ResponseChunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        match &self.permit {
            ChunkPermit::Uncounted => {}
            ChunkPermit::Owned(permit) => permit.record_sent(),
            ChunkPermit::Shared(permit) => permit.record_sent(),
        }
    }
}

#[cfg(test)]
#[path = "response_body_tests.rs"]
mod tests;
