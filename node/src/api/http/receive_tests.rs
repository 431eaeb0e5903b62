//! Reading of bodies that arrive in different ways.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::*;

/// A body of chunks that may declare its size and may stop arriving.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    declared: Option<u64>,
    stalls: bool,
    polls: usize,
}

impl Pieces {
    fn chunked(chunks: &[&'static str]) -> Self {
        let chunks = chunks
            .iter()
            .map(|chunk| Bytes::from_static(chunk.as_bytes()))
            .collect();
        Self {
            pieces: chunks,
            ..Self::default()
        }
    }

    fn sized(chunks: &[&'static str]) -> Self {
        let declared = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self {
            declared: Some(declared),
            ..Self::chunked(chunks)
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
            chunk => Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk)))),
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
        .receive(&mut body, limit, client, ApiError::value_too_large)
        .await
    {
        Ok(received) => Ok(received.bytes),
        Err(error) => Err((error.status().as_u16(), error.code())),
    }
}

#[tokio::test]
async fn bodies_are_read() {
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
async fn one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"value");
    let body = Pieces {
        pieces: [chunk.clone()].into(),
        declared: Some(5),
        ..Pieces::default()
    };
    assert_eq!(read(body, 10).await.unwrap().as_ptr(), chunk.as_ptr());
}

#[tokio::test]
async fn declared_excess_is_refused_unread() {
    let mut body = Pieces::sized(&["abcde"]);
    let error = intake()
        .receive(&mut body, 4, client, ApiError::value_too_large)
        .await
        .err()
        .unwrap();
    assert_eq!((error.code(), body.polls), ("value_too_large", 0));
}

#[tokio::test]
async fn undeclared_excess_is_refused() {
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

/// Address of the sender.
fn client() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn bytes(count: usize) -> Pieces {
    Pieces {
        pieces: [Bytes::from(vec![0; count])].into(),
        declared: Some(count as u64),
        ..Pieces::default()
    }
}

async fn receive(reader: &Intake, mut body: Pieces, number: u8) -> Result<Received<'_>, ApiError> {
    let client = || IpAddr::from([127, 0, 0, number]);
    reader
        .receive(&mut body, 1 << 20, client, ApiError::value_too_large)
        .await
}

#[tokio::test]
async fn memory_for_large_bodies_is_bounded() {
    let reader = intake();
    let first = receive(&reader, bytes(45_000), 1).await.unwrap();
    let code = async |size, number| {
        receive(&reader, bytes(size), number)
            .await
            .err()
            .unwrap()
            .code()
    };
    assert_eq!(code(20_000, 1).await, "unavailable", "a client gets half");
    let second = receive(&reader, bytes(45_000), 2).await.unwrap();
    assert_eq!(
        code(20_000, 3).await,
        "unavailable",
        "the budget is used up"
    );
    assert!(receive(&reader, Pieces::sized(&["small"]), 3).await.is_ok());
    drop((first, second));
    assert!(receive(&reader, bytes(45_000), 1).await.is_ok());
    assert_eq!(reader.memory.taken(), 0);
}

#[tokio::test]
async fn declared_sizes_take_no_memory() {
    let reader = intake();
    let stalled = || Pieces {
        stalls: true,
        declared: Some(1 << 20),
        ..Pieces::chunked(&["a", "b"])
    };
    let mut receiving: Vec<_> = (0..64)
        .map(|_| Box::pin(receive(&reader, stalled(), 1)))
        .collect();
    for body in &mut receiving {
        assert!(futures_util::poll!(body).is_pending());
    }
    assert_eq!(reader.memory.taken(), 0);
    assert!(receive(&reader, bytes(20_000), 2).await.is_ok());
}

#[tokio::test]
async fn memory_is_taken_as_chunks_arrive() {
    let reader = intake();
    let mut body = Pieces {
        stalls: true,
        declared: None,
        pieces: vec![Bytes::from(vec![0; 10_000]); 3].into(),
        polls: 0,
    };
    let mut receiving =
        Box::pin(reader.receive(&mut body, 1 << 20, client, ApiError::value_too_large));
    assert!(futures_util::poll!(&mut receiving).is_pending());
    assert!((30_000..=65_536).contains(&reader.memory.taken()));
    drop(receiving);
    assert_eq!(reader.memory.taken(), 0);
}

#[test]
fn chunk_timeouts_of_slow_bodies_shrink() {
    let settings = HttpSettings {
        body_timeout: Duration::from_secs(10),
        body_deadline: Duration::from_secs(100),
        body_rate: 1000,
        ..HttpSettings::default()
    };
    let reader = Intake::new(&settings);
    let timeout_secs = |elapsed, bytes| {
        let timeout = reader.patience(Duration::from_secs(elapsed), bytes);
        timeout.as_secs()
    };
    assert_eq!(timeout_secs(0, 0), 10);
    assert_eq!(timeout_secs(9, 9), 1, "far below the minimum rate");
    assert_eq!(timeout_secs(20, 20_000), 10, "at the minimum rate");
    assert_eq!(timeout_secs(20, 12_000), 2);
    assert_eq!(timeout_secs(95, 1 << 20), 5, "close to the deadline");
    let without_rate = Intake::new(&HttpSettings {
        body_rate: 0,
        ..settings
    });
    let timeout = without_rate.patience(Duration::from_secs(50), 1);
    assert_eq!(timeout.as_secs(), 10);
}
