//! Reading the body of a request into memory, within bounds of size, time and memory.
//!
//! What declares itself too large is refused before a byte of it is read (and before
//! `100 Continue` is sent, which hyper does at the first read). What lies about its size, or has
//! none, is cut at the first byte beyond the limit. A body that arrived in one piece, as small
//! ones do, isn't copied.
//!
//! Memory is taken as bytes come: what a client promises costs nobody anything. One client gets half of
//! it, and one that sends too slowly is cut off.
//!
//! Cancel safety: dropping the future loses what was read of the body and frees its room.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::time::{Instant, timeout};

use cloudkv_common::server::{HttpSettings, Memory};

use crate::api::errors::ApiError;

/// Bodies up to here need no room of their own: their number is bounded by that of connections.
const FREE: usize = 16 << 10;

/// Reads bodies, and bounds the memory that they take together.
pub struct Intake {
    memory: Memory,
    progress: Duration,
    deadline: Duration,
    /// Bytes a second that a body brings at least, once `progress` has passed; 0: any.
    rate: usize,
}

/// A body that has been read. It holds its room until it is dropped.
pub struct Received<'a> {
    /// The body.
    pub bytes: Bytes,
    _room: Room<'a>,
}

/// What to answer to a body beyond the limit.
pub type TooLarge = fn(usize) -> ApiError;

/// Memory that a body takes, until it is dropped.
struct Room<'a> {
    memory: &'a Memory,
    taken: Option<(IpAddr, usize)>,
}

/// The bounds of one body.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bytes that it has, as far as it says so; else its limit.
    expected: usize,
    limit: usize,
    too_large: TooLarge,
}

impl Intake {
    /// An intake with the settings' bounds.
    pub fn new(settings: &HttpSettings) -> Self {
        Self {
            memory: Memory::new(settings.body_memory),
            progress: settings.body_timeout,
            deadline: settings.body_deadline,
            rate: settings.body_rate,
        }
    }

    /// Reads a body of at most `limit` bytes. `client` tells whose it is, where that matters.
    pub async fn receive<B, C>(
        &self,
        body: &mut B,
        limit: usize,
        client: C,
        too_large: TooLarge,
    ) -> Result<Received<'_>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
        C: FnOnce() -> IpAddr,
    {
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        let expected = body.size_hint().exact().map_or(limit, |size| size as usize);
        let first = self.next(body, self.progress).await?.unwrap_or_default();
        if first.len() > limit {
            return Err(too_large(limit));
        }
        let mut room = Room {
            memory: &self.memory,
            taken: None,
        };
        if expected > FREE {
            room.taken = Some((client(), 0));
        }
        let bytes = if body.is_end_stream() {
            room.grow(first.len())?;
            first
        } else {
            let bounds = Bounds {
                expected,
                limit,
                too_large,
            };
            self.rest(body, first, bounds, &mut room).await?
        };
        Ok(Received { bytes, _room: room })
    }

    /// The slower way, for bodies of several pieces or of unknown length.
    async fn rest<B>(
        &self,
        body: &mut B,
        first: Bytes,
        bounds: Bounds,
        room: &mut Room<'_>,
    ) -> Result<Bytes, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let began = Instant::now();
        let Some(second) = self.next(body, self.progress).await? else {
            room.grow(first.len())?;
            return Ok(first);
        };
        let mut whole = BytesMut::new();
        append(&mut whole, &first, bounds, room)?;
        let mut piece = second;
        loop {
            append(&mut whole, &piece, bounds, room)?;
            if body.is_end_stream() {
                break;
            }
            let patience = self.patience(began.elapsed(), whole.len());
            match self.next(body, patience).await? {
                Some(next) => piece = next,
                None => break,
            }
        }
        Ok(whole.freeze())
    }

    /// How long the next piece of a body may take, of which so many bytes came within this time.
    fn patience(&self, elapsed: Duration, bytes: usize) -> Duration {
        let mut until = self.deadline;
        if self.rate > 0 {
            let paid = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            until = until.min(self.progress.saturating_add(paid));
        }
        until.saturating_sub(elapsed).min(self.progress)
    }

    /// The next piece that isn't empty, if it comes in time; `None` at the end. Trailers are dropped.
    async fn next<B>(&self, body: &mut B, patience: Duration) -> Result<Option<Bytes>, ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        while !body.is_end_stream() {
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            match timeout(patience, frame).await {
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
}

impl Room<'_> {
    /// Makes it as large as so many bytes need.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let Some((client, taken)) = &mut self.taken else {
            return Ok(());
        };
        let more = if bytes > FREE {
            bytes.saturating_sub(*taken)
        } else {
            0
        };
        if more > 0 && !self.memory.try_take(Some(*client), more) {
            return Err(ApiError::overloaded());
        }
        *taken += more;
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some((client, taken)) = self.taken.filter(|(_, taken)| *taken > 0) {
            self.memory.release(Some(client), taken);
        }
    }
}

/// Adds a piece to what has come, and takes room for it.
fn append(
    whole: &mut BytesMut,
    piece: &[u8],
    bounds: Bounds,
    room: &mut Room<'_>,
) -> Result<(), ApiError> {
    let needed = whole.len() + piece.len();
    if needed > bounds.limit {
        return Err((bounds.too_large)(bounds.limit));
    }
    if needed > whole.capacity() {
        let doubled = (2 * whole.capacity()).clamp(FREE, bounds.expected.max(FREE));
        let capacity = needed.max(doubled);
        room.grow(capacity)?;
        let mut larger = BytesMut::with_capacity(capacity);
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(piece);
    Ok(())
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
