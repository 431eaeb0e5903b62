//! The body of a request, as the server hands it to who answers.
//!
//! Over HTTP/1 a body that isn't read to its end makes its connection useless for what follows, so
//! the answer has to say so, and the socket has to be closed gently ([`super::linger`]). Whoever
//! answers needn't know: the body itself notes its end, and what was left of it comes back here,
//! to be thrown away if it is short and there already.
//!
//! Over HTTP/2 the last bytes that `content-length` promises are held back until the stream ends:
//! who reads by that length can't take the beginning of a longer body for all of it.

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

/// Maximum number of unread bytes that are thrown away to keep a connection.
const MAX_DISCARDED: u64 = 4 << 10;

/// Number of times that a remainder is asked for before it counts as one that comes later: hyper
/// hands a piece over a turn after it was asked for.
const DISCARD_POLLS: usize = 6;

/// What went wrong with a body: it broke off, or isn't what its head said.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    /// There until it is dropped.
    incoming: Option<Incoming>,
    /// Where its end is noted, over HTTP/1.
    unread: Option<Arc<Unread>>,
    /// Whether the end of the stream decides, as over HTTP/2.
    ends_with_stream: bool,
    held: Option<Box<Held>>,
}

/// The last bytes of a body whose stream hasn't ended, or the trailers behind them.
#[derive(Debug)]
enum Held {
    Data(Bytes),
    Frame(Frame<Bytes>),
}

/// Whether the current request's body was read to its end, for one HTTP/1 connection.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    open: AtomicBool,
    /// What was dropped before its end.
    left: Mutex<Option<Incoming>>,
}

impl RequestBody {
    /// A body whose end `unread` is to know of. One that waits for `100 Continue` is never asked
    /// for once it was dropped: that would make the client send it.
    pub(crate) fn http1(incoming: Incoming, unread: &Arc<Unread>) -> Self {
        let unread = (!incoming.is_end_stream()).then(|| {
            unread.open.store(true, Ordering::Relaxed);
            Arc::clone(unread)
        });
        Self {
            incoming: Some(incoming),
            unread,
            ends_with_stream: false,
            held: None,
        }
    }

    /// A body on a stream of its own.
    pub(crate) fn http2(incoming: Incoming) -> Self {
        Self {
            incoming: Some(incoming),
            unread: None,
            ends_with_stream: true,
            held: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = self.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        if let Some(Held::Frame(_)) = self.held.as_deref() {
            return Poll::Ready(take_held(&mut self.held).map(Ok));
        }
        loop {
            let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(take_held(&mut self.held).map(Ok)),
            };
            if self.held.is_some() {
                if frame.data_ref().is_some_and(Bytes::is_empty) {
                    continue;
                }
                if frame.is_data() {
                    self.held = None;
                    let message = "the body is longer than its content-length";
                    return Poll::Ready(Some(Err(message.into())));
                }
                let last = take_held(&mut self.held);
                self.held = Some(Box::new(Held::Frame(frame)));
                return Poll::Ready(last.map(Ok));
            }
            let promised = self.ends_with_stream && incoming.size_hint().exact() == Some(0);
            match frame.into_data() {
                Ok(data) if promised && !incoming.is_end_stream() => {
                    self.held = Some(Box::new(Held::Data(data)));
                }
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }
}

fn take_held(held: &mut Option<Box<Held>>) -> Option<Frame<Bytes>> {
    held.take().map(|held| match *held {
        Held::Data(data) => Frame::data(data),
        Held::Frame(frame) => frame,
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
            unread.open.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.incoming.as_ref().is_none_or(Body::is_end_stream);
        ended && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref().map(Body::size_hint);
        match (incoming, self.held.as_deref()) {
            (Some(hint), None) => hint,
            (Some(_), Some(Held::Data(data))) => SizeHint::with_exact(data.len() as u64),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(unread) = self.unread.take() {
            *unread.left.lock() = self.incoming.take();
        }
    }
}

impl Unread {
    /// Whether the request that was just answered left some of its body unread. A short rest that
    /// is there already is thrown away first, unless the client `waits` to be asked for its body.
    pub(crate) async fn is_left(&self, waits: bool) -> bool {
        if !self.open.swap(false, Ordering::Relaxed) {
            return false;
        }
        let left = self.left.lock().take();
        match left {
            Some(body) if !waits => !discard(body).await,
            // Somebody still reads it, or nobody may ask for it.
            _ => true,
        }
    }
}

/// Reads a body to its end if that is short and there already; says whether it was.
async fn discard(mut body: Incoming) -> bool {
    let (mut polls, mut bytes) = (0, 0);
    poll_fn(|cx| {
        loop {
            if body.is_end_stream() {
                return Poll::Ready(true);
            }
            if bytes + body.size_hint().lower() > MAX_DISCARDED {
                return Poll::Ready(false);
            }
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending if polls < DISCARD_POLLS => {
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
