//! Reads the body of a request into memory, within bounds of size, time and memory.
//!
//! A body that declares a size beyond the limit is refused before a byte of it is read (and before
//! `100 Continue` is sent, which hyper does at the first read). One that exceeds its declared size,
//! or declares none, is cut off at the first byte beyond the limit. A body that arrived in one
//! chunk, as small ones do, isn't copied.
//!
//! Memory is taken from the budget as bytes arrive: a declared size alone takes none. One client
//! gets half of the budget, and one that sends too slowly is disconnected.
//!
//! Cancel safety: dropping the future loses the chunks that were read and releases their memory.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::Full;
use tokio::time::{Instant, timeout};

use cloudkv_common::server::{HttpSettings, MemoryBudget, RequestBody};

use crate::api::errors::ApiError;

/// Maximum size of a body that isn't charged to the memory budget, in bytes: the number of such
/// bodies is bounded by that of connections.
const UNMETERED_BYTES: usize = 16 << 10;

/// Body of a request.
pub(crate) trait IncomingBody:
    Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static
{
    /// True if the response may be a stream: it is sent while it is made.
    const ALLOWS_STREAM: bool;
}

impl IncomingBody for RequestBody {
    const ALLOWS_STREAM: bool = true;
}

/// Body of a request that a router sends as a call, whose response is one message.
impl IncomingBody for Full<Bytes> {
    const ALLOWS_STREAM: bool = false;
}

/// Reads bodies, and bounds the memory that they take together.
pub(crate) struct BodyReader {
    memory: MemoryBudget,
    chunk_timeout: Duration,
    deadline: Duration,
    /// Minimum rate of a body in bytes per second, once `chunk_timeout` has passed; 0: any.
    min_rate: usize,
}

/// A body that has been read. It holds its memory permit until it is dropped.
pub(crate) struct ReceivedBody<'a> {
    /// Content of the body.
    pub bytes: Bytes,
    _permit: BodyMemoryPermit<'a>,
}

/// Bounds in time of a body that is read as it comes: it has no deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamBounds {
    /// Maximum time without a byte.
    pub chunk_timeout: Duration,
    /// Minimum rate in bytes per second, once `chunk_timeout` has passed; 0: any.
    pub min_rate: usize,
}

/// Error of a body beyond the limit.
pub(crate) type TooLargeError = fn(usize) -> ApiError;

/// Permit for the memory of a body, which is released when it is dropped.
struct BodyMemoryPermit<'a> {
    memory: &'a MemoryBudget,
    taken: Option<(IpAddr, usize)>,
}

/// Bounds of one body.
#[derive(Clone, Copy)]
struct BodyBounds {
    /// Declared size in bytes; else the limit.
    expected: usize,
    limit: usize,
    too_large: TooLargeError,
}

impl BodyReader {
    /// Creates a reader with the bounds of the settings.
    pub(crate) fn new(settings: &HttpSettings) -> Self {
        Self {
            memory: MemoryBudget::new(settings.body_memory_bytes),
            chunk_timeout: settings.body_timeout,
            deadline: settings.body_deadline,
            min_rate: settings.min_body_rate,
        }
    }

    /// Returns the bounds of bodies that are read as they come.
    pub(crate) fn stream_bounds(&self) -> StreamBounds {
        StreamBounds {
            chunk_timeout: self.chunk_timeout,
            min_rate: self.min_rate,
        }
    }

    /// Reads a body of at most `limit` bytes. `client` returns the sender's address; it is called
    /// only for bodies that are charged to the memory budget.
    pub(crate) async fn receive<B, C>(
        &self,
        body: &mut B,
        limit: usize,
        client: C,
        too_large: TooLargeError,
    ) -> Result<ReceivedBody<'_>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
        C: FnOnce() -> IpAddr,
    {
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        let expected = body.size_hint().exact().map_or(limit, |size| size as usize);
        let first = self
            .next_chunk(body, self.chunk_timeout)
            .await?
            .unwrap_or_default();
        if first.len() > limit {
            return Err(too_large(limit));
        }
        let mut permit = BodyMemoryPermit {
            memory: &self.memory,
            taken: None,
        };
        if expected > UNMETERED_BYTES {
            permit.taken = Some((client(), 0));
        }
        let bytes = if body.is_end_stream() {
            permit.grow(first.len())?;
            first
        } else {
            let bounds = BodyBounds {
                expected,
                limit,
                too_large,
            };
            self.read_rest(body, first, bounds, &mut permit).await?
        };
        Ok(ReceivedBody {
            bytes,
            _permit: permit,
        })
    }

    /// Reads the rest of a body of several chunks or of unknown length, which takes a copy.
    async fn read_rest<B>(
        &self,
        body: &mut B,
        first: Bytes,
        bounds: BodyBounds,
        permit: &mut BodyMemoryPermit<'_>,
    ) -> Result<Bytes, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let started_at = Instant::now();
        let Some(second) = self.next_chunk(body, self.chunk_timeout).await? else {
            permit.grow(first.len())?;
            return Ok(first);
        };
        let mut buffer = BytesMut::new();
        append_chunk(&mut buffer, &first, bounds, permit)?;
        let mut chunk = second;
        loop {
            append_chunk(&mut buffer, &chunk, bounds, permit)?;
            if body.is_end_stream() {
                break;
            }
            let timeout = self.next_chunk_timeout(started_at.elapsed(), buffer.len());
            match self.next_chunk(body, timeout).await? {
                Some(next) => chunk = next,
                None => break,
            }
        }
        Ok(buffer.freeze())
    }

    /// Returns the timeout of the next chunk of a body of which `bytes` arrived within `elapsed`.
    fn next_chunk_timeout(&self, elapsed: Duration, bytes: usize) -> Duration {
        let mut deadline = self.deadline;
        if self.min_rate > 0 {
            let earned = Duration::from_secs_f64(bytes as f64 / self.min_rate as f64);
            deadline = deadline.min(self.chunk_timeout.saturating_add(earned));
        }
        deadline.saturating_sub(elapsed).min(self.chunk_timeout)
    }

    /// Reads the next chunk that isn't empty; `None` at the end. Fails with 408 after
    /// `chunk_timeout`. Trailers are dropped.
    async fn next_chunk<B>(
        &self,
        body: &mut B,
        chunk_timeout: Duration,
    ) -> Result<Option<Bytes>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        while !body.is_end_stream() {
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            match timeout(chunk_timeout, frame).await {
                Err(_) => return Err(ApiError::body_timeout()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => {
                    let message = "the request's body ended early or is malformed";
                    return Err(ApiError::invalid_body(message));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
        Ok(None)
    }
}

impl BodyMemoryPermit<'_> {
    /// Grows the permit to so many bytes; 503 if the memory budget is exhausted.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let Some((client, taken)) = &mut self.taken else {
            return Ok(());
        };
        let additional = if bytes > UNMETERED_BYTES {
            bytes.saturating_sub(*taken)
        } else {
            0
        };
        if additional > 0 && !self.memory.try_acquire(Some(*client), additional) {
            return Err(ApiError::overloaded());
        }
        *taken += additional;
        Ok(())
    }
}

impl Drop for BodyMemoryPermit<'_> {
    fn drop(&mut self) {
        if let Some((client, taken)) = self.taken.filter(|(_, taken)| *taken > 0) {
            self.memory.release(Some(client), taken);
        }
    }
}

/// Appends a chunk to the buffer, and grows the permit for it.
fn append_chunk(
    buffer: &mut BytesMut,
    chunk: &[u8],
    bounds: BodyBounds,
    permit: &mut BodyMemoryPermit<'_>,
) -> Result<(), ApiError> {
    let needed = buffer.len() + chunk.len();
    if needed > bounds.limit {
        return Err((bounds.too_large)(bounds.limit));
    }
    if needed > buffer.capacity() {
        let doubled =
            (2 * buffer.capacity()).clamp(UNMETERED_BYTES, bounds.expected.max(UNMETERED_BYTES));
        let capacity = needed.max(doubled);
        permit.grow(capacity)?;
        let mut larger = BytesMut::with_capacity(capacity);
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(chunk);
    Ok(())
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
