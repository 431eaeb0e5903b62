//! Bodies of event streams.

use futures_util::stream;
use http_body::Body as _;

use super::*;
use crate::service::{KeyInfo, Version, WatchEnd};

/// Interval of comments in tests that expect none.
const NEVER: Duration = Duration::from_secs(3600);

fn stream_of(
    items: impl Stream<Item = WatchItem> + Send + 'static,
    interval: Duration,
) -> (EventStream, Arc<ApiMetrics>) {
    let metrics: Arc<ApiMetrics> = Arc::default();
    let region = HeaderValue::from_static("eu");
    let counters = Arc::clone(&metrics);
    let memory = AnswerMemory {
        budget: Arc::new(MemoryBudget::new(MEMORY_BYTES)),
        client: Some(IpAddr::from([192, 0, 2, 1])),
    };
    let counters = (counters, memory);
    let stream = EventStream::of_items(items.boxed(), false, region, interval, counters);
    (stream, metrics)
}

/// Memory for answers, of which one address gets half.
const MEMORY_BYTES: usize = 100 << 10;

fn key_of_bytes(bytes: usize) -> WatchItem {
    WatchItem::Initial {
        keys: vec![KeyInfo {
            key: Bytes::from(vec![b'k'; bytes]),
            size: 0,
            version: Version::default(),
            expires_at: None,
            content_type: Bytes::new(),
            metadata: Bytes::new(),
            value: None,
        }],
        token: "A2".into(),
    }
}

#[tokio::test]
async fn a_chunk_for_which_there_is_no_memory_ends_the_stream() {
    for (bytes, is_sent) in [(40 << 10, true), (60 << 10, false)] {
        let items = [key_of_bytes(bytes), position("A3")];
        let (mut stream, _) = stream_of(stream::iter(items), NEVER);
        let mut chunks = Vec::new();
        while let Some(Ok(chunk)) = stream.next().await {
            chunks.push(chunk);
        }
        assert_eq!(chunks[1].len() > bytes, is_sent);
        let last = chunks.last().unwrap();
        assert_eq!(last.starts_with(b": the client reads too slowly"), !is_sent);
    }
}

fn position(token: &str) -> WatchItem {
    WatchItem::Position {
        token: token.into(),
    }
}

#[tokio::test]
async fn a_stream_has_a_chunk_for_each_item_and_nothing_after_its_end() {
    let items = [
        position("A1"),
        // It has no block.
        WatchItem::Events(Vec::new()),
        position("A2"),
        WatchItem::End(WatchEnd::Draining),
    ];
    // An item behind the end would be an error.
    let after_end = stream::poll_fn(|_| panic!("read after the end"));
    let (mut stream, metrics) = stream_of(stream::iter(items).chain(after_end), NEVER);
    let mut chunks = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        chunks.push(chunk);
    }
    assert_eq!(
        chunks,
        [
            "retry: 2000\n",
            ":\nid: A1\n\n",
            ":\nid: A2\n\n",
            ": this node is stopping\nretry: 1000\n",
        ]
    );
    assert!(stream.next().await.is_none());
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    drop(stream);
    assert_eq!(metrics.bytes_out(), bytes as u64);
}

#[tokio::test]
async fn comments_come_while_nothing_happens() {
    let items = stream::iter([position("A1")]).chain(stream::pending());
    let (mut stream, metrics) = stream_of(items, Duration::from_millis(1));
    for expected in ["retry: 2000\n", ":\nid: A1\n\n", ":\n", ":\n"] {
        assert_eq!(stream.next().await.unwrap().unwrap(), expected);
    }
    // What was sent before the last comment is counted while the stream goes on.
    assert!(metrics.bytes_out() > 0);
}

#[tokio::test]
async fn a_body_begins_at_once_and_has_no_known_size() {
    let (stream, _) = stream_of(stream::pending(), NEVER);
    let mut body = axum::body::Body::from_stream(stream);
    assert_eq!(body.size_hint().exact(), None);
    assert!(!body.is_end_stream());
    let frame = http_body_util::BodyExt::frame(&mut body).await;
    let data = frame.unwrap().unwrap().into_data().unwrap();
    assert_eq!(data, "retry: 2000\n");
}
