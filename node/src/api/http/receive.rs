//! Reading the body of a request into memory, within bounds of size, time and memory.
//!
//! What declares itself too large is refused before a byte of it is read (and before
//! `100 Continue` is sent, which hyper does at the first read). What lies about its size, or has
//! none, is cut at the first byte beyond the limit. A body that arrived in one piece, as small
//! ones do, isn't copied.
//!
//! Cancel safety: dropping the future loses what was read of the body and frees its room.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use cloudkv_common::server::HttpSettings;

use crate::api::errors::ApiError;

/// Bodies up to here need no room of their own: their number is bounded by that of connections.
const FREE: usize = 16 << 10;

/// Reads bodies, and bounds the memory that they take together.
pub struct Intake {
    room: Semaphore,
    progress: Duration,
    deadline: Duration,
}

/// A body that has been read. It holds its room until it is dropped.
pub struct Received<'a> {
    /// The body.
    pub bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// What to answer to a body beyond the limit.
pub type TooLarge = fn(usize) -> ApiError;

impl Intake {
    /// An intake with the settings' bounds.
    pub fn new(settings: &HttpSettings) -> Self {
        Self {
            room: Semaphore::new(settings.body_memory.min(Semaphore::MAX_PERMITS)),
            progress: settings.body_timeout,
            deadline: settings.body_deadline,
        }
    }

    /// Reads a body of at most `limit` bytes.
    pub async fn receive<B>(
        &self,
        body: &mut B,
        limit: usize,
        too_large: TooLarge,
    ) -> Result<Received<'_>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        let expected = body.size_hint().exact().map_or(limit, |size| size as usize);
        let room = self.reserve(expected)?;
        let first = self.next(body).await?.unwrap_or_default();
        if first.len() > limit {
            return Err(too_large(limit));
        }
        let bytes = if body.is_end_stream() {
            first
        } else {
            self.rest(body, first, expected.min(limit), limit, too_large)
                .await?
        };
        Ok(Received { bytes, _room: room })
    }

    /// The slower way, for bodies of several pieces or of unknown length.
    async fn rest<B>(
        &self,
        body: &mut B,
        first: Bytes,
        expected: usize,
        limit: usize,
        too_large: TooLarge,
    ) -> Result<Bytes, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + self.deadline;
        let Some(second) = self.next(body).await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::with_capacity(expected.min(FREE).max(first.len()));
        whole.extend_from_slice(&first);
        let mut piece = second;
        loop {
            if whole.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            whole.extend_from_slice(&piece);
            if body.is_end_stream() {
                break;
            }
            if Instant::now() > deadline {
                return Err(ApiError::body_timeout());
            }
            match self.next(body).await? {
                Some(next) => piece = next,
                None => break,
            }
        }
        Ok(whole.freeze())
    }

    /// The next piece that isn't empty; `None` at the end. Trailers are dropped.
    async fn next<B>(&self, body: &mut B) -> Result<Option<Bytes>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        while !body.is_end_stream() {
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            match timeout(self.progress, frame).await {
                Err(_) => return Err(ApiError::body_timeout()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => {
                    let message = "the request's body ended early or is malformed";
                    return Err(ApiError::body(message));
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

    fn reserve(&self, size: usize) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        if size <= FREE {
            return Ok(None);
        }
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let permit = self.room.try_acquire_many(permits);
        permit.map(Some).map_err(|_| ApiError::unavailable())
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
