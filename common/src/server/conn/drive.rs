//! Drives hyper on one connection: its bounds, and the directives to it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use crate::server::conn::h2_streams::StreamExecutor;
use crate::server::conn::session::HttpSession;
use crate::server::conn::state::Directive;
use crate::server::handler::RequestHandler;
use crate::server::settings::HttpSettings;

/// Flow-control window of an HTTP/2 request: bytes of its body that may arrive unread.
///
/// h2 ends a connection whose unread DATA frames fall short of 256 bytes each by more than half the
/// connection's window in sum. A client that respects its windows must not meet that: a stream's
/// window full of frames of 24 bytes, the shortest lines of an import, falls short by 475 KB.
pub(crate) const STREAM_WINDOW: u32 = 48 << 10;
/// Flow-control window of an HTTP/2 connection: bytes of all its requests' unread bodies.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Configures hyper with the settings' bounds. Its own header timeout stays off: it would also be
/// the idle timeout, doesn't cover the wait for the first byte, and takes a timer per request.
pub(crate) fn http_builder(settings: &HttpSettings, tasks: TaskTracker) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor::new(tasks, settings.write_timeout));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(settings.max_head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_header_list_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(settings.keep_alive_interval)
        .keep_alive_timeout(settings.keep_alive_interval);
    builder
}

/// Serves a connection until it ends, has drained, or is cut.
pub(crate) async fn drive<A: RequestHandler>(
    builder: &Builder<StreamExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    session: Arc<HttpSession<A>>,
) {
    let state = Arc::clone(&session.state);
    let service = service_fn(move |request| Arc::clone(&session).serve(request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let (mut is_registered, mut is_draining) = (false, false);
    let ended = poll_fn(|cx| {
        // A task's waker stays the same, but whoever issues a directive takes it, also one that
        // changes nothing: so it is registered again with each poll from the first directive on,
        // and then the directive is read again.
        let mut directive = state.directive();
        if !std::mem::replace(&mut is_registered, true) || directive != Directive::Serve {
            state.register_waker(cx.waker());
            directive = state.directive();
        }
        match directive {
            Directive::Serve => {}
            Directive::Drain => {
                if !std::mem::replace(&mut is_draining, true) {
                    connection.as_mut().graceful_shutdown();
                }
            }
            Directive::Evict => {
                if !std::mem::replace(&mut is_draining, true) {
                    connection.as_mut().graceful_shutdown();
                }
                // Polled once, to send the client a GOAWAY if its socket takes it.
                let ended = connection.as_mut().poll(cx);
                if state.activity().running == 0 {
                    return Poll::Ready(Ok(()));
                }
                return ended;
            }
            Directive::Cut => return Poll::Ready(Ok(())),
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        // A request that hyper itself refused has a response, too, and unread bytes may follow it.
        state.set_linger();
        tracing::debug!(error = &*error, "connection failed");
    }
}
