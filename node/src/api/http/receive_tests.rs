//! Reading of bodies that arrive in different ways.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::*;

/// A body of chunks that may declare its size and may stop arriving.
#[derive(Default)]
struct ChunkedBody {
    chunks: VecDeque<Bytes>,
    declared: Option<u64>,
    is_stalled: bool,
    polls: usize,
}

impl ChunkedBody {
    fn chunked(chunks: &[&'static str]) -> Self {
        let chunks = chunks
            .iter()
            .map(|chunk| Bytes::from_static(chunk.as_bytes()))
            .collect();
        Self {
            chunks,
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

impl Body for ChunkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polls += 1;
        match self.chunks.pop_front() {
            None if self.is_stalled => Poll::Pending,
            chunk => Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.declared.is_some() && self.chunks.is_empty() && !self.is_stalled
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn body_reader() -> BodyReader {
    let settings = HttpSettings {
        body_timeout: Duration::from_millis(20),
        body_memory_bytes: 100_000,
        ..HttpSettings::default()
    };
    BodyReader::new(&settings)
}

async fn read(mut body: ChunkedBody, limit: usize) -> Result<Bytes, (u16, &'static str)> {
    match body_reader()
        .receive(&mut body, limit, client, ApiError::value_too_large)
        .await
    {
        Ok(received) => Ok(received.bytes),
        Err(error) => Err((error.status().as_u16(), error.code())),
    }
}

#[tokio::test]
async fn bodies_are_read() {
    assert_eq!(read(ChunkedBody::sized(&[]), 4).await.unwrap(), "");
    assert_eq!(
        read(ChunkedBody::sized(&["abcd"]), 4).await.unwrap(),
        "abcd"
    );
    assert_eq!(
        read(ChunkedBody::sized(&["ab", "cd"]), 4).await.unwrap(),
        "abcd"
    );
    assert_eq!(
        read(ChunkedBody::chunked(&["", "ab", "", "cd"]), 4)
            .await
            .unwrap(),
        "abcd"
    );
    assert_eq!(
        read(ChunkedBody::chunked(&["a", "b", "c", "d"]), 4)
            .await
            .unwrap(),
        "abcd"
    );
    assert_eq!(read(ChunkedBody::chunked(&[]), 4).await.unwrap(), "");
}

#[tokio::test]
async fn one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"value");
    let body = ChunkedBody {
        chunks: [chunk.clone()].into(),
        declared: Some(5),
        ..ChunkedBody::default()
    };
    assert_eq!(read(body, 10).await.unwrap().as_ptr(), chunk.as_ptr());
}

#[tokio::test]
async fn declared_excess_is_refused_unread() {
    let mut body = ChunkedBody::sized(&["abcde"]);
    let error = body_reader()
        .receive(&mut body, 4, client, ApiError::value_too_large)
        .await
        .err()
        .unwrap();
    assert_eq!((error.code(), body.polls), ("value_too_large", 0));
}

#[tokio::test]
async fn undeclared_excess_is_refused() {
    assert_eq!(
        read(ChunkedBody::chunked(&["abcde"]), 4).await,
        Err((413, "value_too_large"))
    );
    assert_eq!(
        read(ChunkedBody::chunked(&["ab", "cde"]), 4).await,
        Err((413, "value_too_large"))
    );
    assert_eq!(
        read(ChunkedBody::chunked(&["abcd", "e"]), 4).await,
        Err((413, "value_too_large"))
    );
}

#[tokio::test]
async fn stalled_bodies_time_out() {
    let body = ChunkedBody {
        is_stalled: true,
        declared: Some(4),
        ..ChunkedBody::chunked(&["ab"])
    };
    assert_eq!(read(body, 4).await, Err((408, "request_timeout")));
}

/// Address of the sender.
fn client() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn sized_body(count: usize) -> ChunkedBody {
    ChunkedBody {
        chunks: [Bytes::from(vec![0; count])].into(),
        declared: Some(count as u64),
        ..ChunkedBody::default()
    }
}

async fn receive(
    reader: &BodyReader,
    mut body: ChunkedBody,
    number: u8,
) -> Result<ReceivedBody<'_>, ApiError> {
    let client = || IpAddr::from([127, 0, 0, number]);
    reader
        .receive(&mut body, 1 << 20, client, ApiError::value_too_large)
        .await
}

#[tokio::test]
async fn memory_for_large_bodies_is_bounded() {
    let reader = body_reader();
    let first = receive(&reader, sized_body(45_000), 1).await.unwrap();
    let code = async |size, number| {
        receive(&reader, sized_body(size), number)
            .await
            .err()
            .unwrap()
            .code()
    };
    assert_eq!(code(20_000, 1).await, "unavailable", "a client gets half");
    let second = receive(&reader, sized_body(45_000), 2).await.unwrap();
    assert_eq!(
        code(20_000, 3).await,
        "unavailable",
        "the budget is used up"
    );
    assert!(
        receive(&reader, ChunkedBody::sized(&["small"]), 3)
            .await
            .is_ok()
    );
    drop((first, second));
    assert!(receive(&reader, sized_body(45_000), 1).await.is_ok());
    assert_eq!(reader.memory.used_bytes(), 0);
}

#[tokio::test]
async fn declared_sizes_take_no_memory() {
    let reader = body_reader();
    let stalled = || ChunkedBody {
        is_stalled: true,
        declared: Some(1 << 20),
        ..ChunkedBody::chunked(&["a", "b"])
    };
    let mut receiving: Vec<_> = (0..64)
        .map(|_| Box::pin(receive(&reader, stalled(), 1)))
        .collect();
    for body in &mut receiving {
        assert!(futures_util::poll!(body).is_pending());
    }
    assert_eq!(reader.memory.used_bytes(), 0);
    assert!(receive(&reader, sized_body(20_000), 2).await.is_ok());
}

#[tokio::test]
async fn memory_is_taken_as_chunks_arrive() {
    let reader = body_reader();
    let mut body = ChunkedBody {
        is_stalled: true,
        declared: None,
        chunks: vec![Bytes::from(vec![0; 10_000]); 3].into(),
        polls: 0,
    };
    let mut receiving =
        Box::pin(reader.receive(&mut body, 1 << 20, client, ApiError::value_too_large));
    assert!(futures_util::poll!(&mut receiving).is_pending());
    assert!((30_000..=65_536).contains(&reader.memory.used_bytes()));
    drop(receiving);
    assert_eq!(reader.memory.used_bytes(), 0);
}

#[test]
fn chunk_timeouts_of_slow_bodies_shrink() {
    let settings = HttpSettings {
        body_timeout: Duration::from_secs(10),
        body_deadline: Duration::from_secs(100),
        min_body_rate: 1000,
        ..HttpSettings::default()
    };
    let reader = BodyReader::new(&settings);
    let timeout_secs = |elapsed, bytes| {
        let timeout = reader.next_chunk_timeout(Duration::from_secs(elapsed), bytes);
        timeout.as_secs()
    };
    assert_eq!(timeout_secs(0, 0), 10);
    assert_eq!(timeout_secs(9, 9), 1, "far below the minimum rate");
    assert_eq!(timeout_secs(20, 20_000), 10, "at the minimum rate");
    assert_eq!(timeout_secs(20, 12_000), 2);
    assert_eq!(timeout_secs(95, 1 << 20), 5, "close to the deadline");
    let without_rate = BodyReader::new(&HttpSettings {
        min_body_rate: 0,
        ..settings
    });
    let timeout = without_rate.next_chunk_timeout(Duration::from_secs(50), 1);
    assert_eq!(timeout.as_secs(), 10);
}
