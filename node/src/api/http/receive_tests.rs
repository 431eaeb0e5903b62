//! Bodies in all the ways in which they arrive.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::*;

/// A body of pieces that may declare its size and may stop arriving.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    declared: Option<u64>,
    stalls: bool,
    polls: usize,
}

impl Pieces {
    fn chunked(pieces: &[&'static str]) -> Self {
        let pieces = pieces
            .iter()
            .map(|piece| Bytes::from_static(piece.as_bytes()))
            .collect();
        Self {
            pieces,
            ..Self::default()
        }
    }

    fn sized(pieces: &[&'static str]) -> Self {
        let declared = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self {
            declared: Some(declared),
            ..Self::chunked(pieces)
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polls += 1;
        match self.pieces.pop_front() {
            None if self.stalls => Poll::Pending,
            piece => Poll::Ready(piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.declared.is_some() && self.pieces.is_empty() && !self.stalls
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn intake() -> Intake {
    let settings = HttpSettings {
        body_timeout: Duration::from_millis(20),
        body_memory: 100_000,
        ..HttpSettings::default()
    };
    Intake::new(&settings)
}

async fn read(mut body: Pieces, limit: usize) -> Result<Bytes, (u16, &'static str)> {
    match intake()
        .receive(&mut body, limit, ApiError::value_too_large)
        .await
    {
        Ok(received) => Ok(received.bytes),
        Err(error) => Err((error.status().as_u16(), error.code())),
    }
}

#[tokio::test]
async fn whole_bodies_are_read() {
    assert_eq!(read(Pieces::sized(&[]), 4).await.unwrap(), "");
    assert_eq!(read(Pieces::sized(&["abcd"]), 4).await.unwrap(), "abcd");
    assert_eq!(read(Pieces::sized(&["ab", "cd"]), 4).await.unwrap(), "abcd");
    assert_eq!(
        read(Pieces::chunked(&["", "ab", "", "cd"]), 4)
            .await
            .unwrap(),
        "abcd"
    );
    assert_eq!(
        read(Pieces::chunked(&["a", "b", "c", "d"]), 4)
            .await
            .unwrap(),
        "abcd"
    );
    assert_eq!(read(Pieces::chunked(&[]), 4).await.unwrap(), "");
}

#[tokio::test]
async fn one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"value");
    let body = Pieces {
        pieces: [piece.clone()].into(),
        declared: Some(5),
        ..Pieces::default()
    };
    assert_eq!(read(body, 10).await.unwrap().as_ptr(), piece.as_ptr());
}

#[tokio::test]
async fn declared_excess_is_refused_unread() {
    let mut body = Pieces::sized(&["abcde"]);
    let error = intake()
        .receive(&mut body, 4, ApiError::value_too_large)
        .await
        .err()
        .unwrap();
    assert_eq!((error.code(), body.polls), ("value_too_large", 0));
}

#[tokio::test]
async fn undeclared_excess_is_cut() {
    assert_eq!(
        read(Pieces::chunked(&["abcde"]), 4).await,
        Err((413, "value_too_large"))
    );
    assert_eq!(
        read(Pieces::chunked(&["ab", "cde"]), 4).await,
        Err((413, "value_too_large"))
    );
    assert_eq!(
        read(Pieces::chunked(&["abcd", "e"]), 4).await,
        Err((413, "value_too_large"))
    );
}

#[tokio::test]
async fn stalled_bodies_time_out() {
    let body = Pieces {
        stalls: true,
        declared: Some(4),
        ..Pieces::chunked(&["ab"])
    };
    assert_eq!(read(body, 4).await, Err((408, "request_timeout")));
}

#[tokio::test]
async fn room_for_large_bodies_is_bounded() {
    let intake = intake();
    let large = || Pieces {
        declared: Some(60_000),
        ..Pieces::default()
    };
    let held = intake
        .receive(&mut large(), 1 << 20, ApiError::value_too_large)
        .await
        .unwrap();
    let error = intake
        .receive(&mut large(), 1 << 20, ApiError::value_too_large)
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), "unavailable");
    let mut small = Pieces::sized(&["small"]);
    assert!(
        intake
            .receive(&mut small, 4096, ApiError::value_too_large)
            .await
            .is_ok()
    );
    drop(held);
    assert!(
        intake
            .receive(&mut large(), 1 << 20, ApiError::value_too_large)
            .await
            .is_ok()
    );
}
