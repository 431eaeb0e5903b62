//! Request body, as the server hands it to the handler.
//!
//! Over HTTP/1 a body that isn't read to its end makes its connection unusable for further
//! requests, so the response has to say so, and the socket has to linger ([`super::linger`]). The
//! handler needn't care: the body itself records its end, and the remainder comes back here, to be
//! discarded if it is short and was received already. A body that is still read when its response
//! has begun, as that of an import, doesn't come back: its connection ends with the response in any
//! case, and waits for the end of the body, or until it is dropped.
//!
//! Over HTTP/2 the last bytes that `content-length` announces are withheld until the stream ends:
//! a reader that counts by that length can't take the beginning of a longer body for all of it.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::server::conn::state::ConnectionState;

/// Maximum number of unread bytes that are discarded to keep a connection.
const MAX_DISCARDED_BYTES: u64 = 4 << 10;

/// Number of polls of a remainder before it counts as not yet received: hyper delivers a piece one
/// poll after it was requested.
const MAX_DISCARD_POLLS: usize = 6;

/// Error of a body that broke off, or isn't as its head announced.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// Body of a request.
#[derive(Debug)]
pub struct RequestBody {
    /// `Some` until it is dropped.
    incoming: Option<Incoming>,
    /// Record of its end, over HTTP/1.
    unread: Option<Arc<UnreadBody>>,
    /// True if the end of the stream decides, as over HTTP/2.
    ends_with_stream: bool,
    withheld: Option<Box<WithheldFrame>>,
}

/// Last bytes of a body whose stream hasn't ended, or the trailers after them.
#[derive(Debug)]
enum WithheldFrame {
    Data(Bytes),
    Trailers(Frame<Bytes>),
}

/// Record of whether the current request's body was read to its end, for one HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct UnreadBody {
    /// True until the body was read to its end, or its response begins.
    is_open: AtomicBool,
    /// Body that was dropped before its end, and before its response began.
    remainder: Mutex<Option<Incoming>>,
    state: Arc<ConnectionState>,
}

impl RequestBody {
    /// Creates a body whose end is recorded in `unread`. One that waits for `100 Continue` is never
    /// polled once it was dropped: that would make the client send it.
    pub(crate) fn http1(incoming: Incoming, unread: &Arc<UnreadBody>) -> Self {
        let unread = (!incoming.is_end_stream()).then(|| {
            unread.is_open.store(true, Ordering::Relaxed);
            Arc::clone(unread)
        });
        Self {
            incoming: Some(incoming),
            unread,
            ends_with_stream: false,
            withheld: None,
        }
    }

    /// Creates a body on a stream of its own.
    pub(crate) fn http2(incoming: Incoming) -> Self {
        Self {
            incoming: Some(incoming),
            unread: None,
            ends_with_stream: true,
            withheld: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = self.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        if let Some(WithheldFrame::Trailers(_)) = self.withheld.as_deref() {
            return Poll::Ready(take_withheld(&mut self.withheld).map(Ok));
        }
        loop {
            let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                // hyper takes a reset, or the end of a connection, with `NO_ERROR` for the end.
                None if self.ends_with_stream && !incoming.is_end_stream() => {
                    self.withheld = None;
                    let message = "the stream was reset before its end";
                    return Poll::Ready(Some(Err(message.into())));
                }
                None => return Poll::Ready(take_withheld(&mut self.withheld).map(Ok)),
            };
            if self.withheld.is_some() {
                if frame.data_ref().is_some_and(Bytes::is_empty) {
                    continue;
                }
                if frame.is_data() {
                    self.withheld = None;
                    let message = "the body is longer than its content-length";
                    return Poll::Ready(Some(Err(message.into())));
                }
                let last = take_withheld(&mut self.withheld);
                self.withheld = Some(Box::new(WithheldFrame::Trailers(frame)));
                return Poll::Ready(last.map(Ok));
            }
            let is_complete = self.ends_with_stream && incoming.size_hint().exact() == Some(0);
            match frame.into_data() {
                Ok(data) if is_complete && !incoming.is_end_stream() => {
                    self.withheld = Some(Box::new(WithheldFrame::Data(data)));
                }
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }
}

fn take_withheld(withheld: &mut Option<Box<WithheldFrame>>) -> Option<Frame<Bytes>> {
    withheld.take().map(|withheld| match *withheld {
        WithheldFrame::Data(data) => Frame::data(data),
        WithheldFrame::Trailers(frame) => frame,
    })
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.poll(cx));
        let failed = matches!(frame, Some(Err(_)));
        if !failed
            && (frame.is_none() || self.is_end_stream())
            && let Some(unread) = self.unread.take()
        {
            unread.record_end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.incoming.as_ref().is_none_or(Body::is_end_stream);
        ended && self.withheld.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref().map(Body::size_hint);
        match (incoming, self.withheld.as_deref()) {
            (Some(hint), None) => hint,
            (Some(_), Some(WithheldFrame::Data(data))) => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(unread) = self.unread.take() {
            unread.take_back(self.incoming.take());
        }
    }
}

impl UnreadBody {
    /// Creates the record of a connection with this state.
    pub(crate) fn new(state: Arc<ConnectionState>) -> Self {
        Self {
            is_open: AtomicBool::new(false),
            remainder: Mutex::default(),
            state,
        }
    }

    /// Records that the body was read to its end.
    fn record_end(&self) {
        if !self.is_open.swap(false, Ordering::AcqRel) {
            self.state.set_body_read_on(false);
        }
    }

    /// Takes a body that is dropped before its end. Once its response has begun nobody asks for it
    /// any more, so it is dropped here: hyper ends the connection when it is gone.
    fn take_back(&self, incoming: Option<Incoming>) {
        let mut remainder = self.remainder.lock();
        if self.is_open.load(Ordering::Acquire) {
            *remainder = incoming;
        } else {
            self.state.set_body_read_on(false);
        }
    }

    /// Returns the remainder of the body when its response begins: none if it isn't open, and
    /// `Some(None)` if it is still being read.
    fn end_request(&self) -> Option<Option<Incoming>> {
        let mut remainder = self.remainder.lock();
        // Set first, so that the end of the body, which takes no lock, can't be overwritten.
        self.state.set_body_read_on(true);
        let was_open = self.is_open.swap(false, Ordering::AcqRel);
        let remainder = remainder.take();
        if !was_open || remainder.is_some() {
            self.state.set_body_read_on(false);
        }
        was_open.then_some(remainder)
    }

    /// Returns whether the request that was just answered left some of its body unread. A short
    /// remainder that was received already is discarded first, unless the client `waits` for
    /// `100 Continue`.
    pub(crate) async fn has_unread_bytes(&self, waits: bool) -> bool {
        if !self.is_open.load(Ordering::Relaxed) {
            return false;
        }
        match self.end_request() {
            None => false,
            Some(Some(body)) if !waits => !discard(body).await,
            // It is still being read, or must not be polled.
            Some(_) => true,
        }
    }
}

/// Reads a body to its end if the remainder is short and was received already. False if it isn't.
async fn discard(mut body: Incoming) -> bool {
    let (mut polls, mut bytes) = (0, 0);
    poll_fn(|cx| {
        loop {
            if body.is_end_stream() {
                return Poll::Ready(true);
            }
            if bytes + body.size_hint().lower() > MAX_DISCARDED_BYTES {
                return Poll::Ready(false);
            }
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending if polls < MAX_DISCARD_POLLS => {
                    polls += 1;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Ready(false),
            }
        }
    })
    .await
}
