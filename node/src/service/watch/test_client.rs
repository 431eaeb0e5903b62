//! Client that keeps a copy of what it watches, as a user's does; for tests only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::event::WatchEvent;
use super::stream::{WatchItem, WatchStream};
use super::test_node::TestNode;
use crate::types::{KeyChangeKind, Version};

/// Timeout of what must happen soon.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Client of one bucket.
#[derive(Default)]
pub(super) struct TestClient {
    /// What it was told, with the versions.
    pub keys: BTreeMap<Bytes, Version>,
    /// Last token.
    pub token: Option<String>,
    /// Newest version of each key that its stream has told.
    pub told: BTreeMap<Bytes, Version>,
    pub stream: Option<WatchStream>,
}

/// Waits for the next item of a stream.
pub(super) async fn next(stream: &mut WatchStream) -> WatchItem {
    timeout(TIMEOUT, stream.next()).await.unwrap()
}

/// Waits until a stream is ready, which must come next. Returns the token.
pub(super) async fn ready(stream: &mut WatchStream) -> String {
    match next(stream).await {
        WatchItem::Ready { token } => token.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Waits for the reset of a stream, which must come next. Returns the token.
pub(super) async fn reset(stream: &mut WatchStream) -> String {
    match next(stream).await {
        WatchItem::Reset { token } => token.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Waits for at least so many events, which must come next.
pub(super) async fn events(stream: &mut WatchStream, count: usize) -> Vec<Arc<WatchEvent>> {
    let mut events = Vec::new();
    while events.len() < count {
        match next(stream).await {
            WatchItem::Events(more) => events.extend(more),
            other => panic!("{other:?}"),
        }
    }
    events
}

impl TestClient {
    /// Connects, and goes on from the last token.
    pub(super) fn connect(&mut self, node: &TestNode) {
        let mut request = node.request(self.token.as_deref());
        request.initial = true;
        self.stream = Some(node.watches.start(request).unwrap());
        self.told.clear();
    }

    /// Takes the next item. Returns whether it is that the stream is ready.
    pub(super) async fn take(&mut self) -> bool {
        let stream = self.stream.as_mut().unwrap();
        let item = next(stream).await;
        let mut is_ready = false;
        let token = match item {
            WatchItem::Events(events) => {
                for event in &events {
                    self.apply(event);
                }
                let last = events.last().unwrap();
                last.token.clone()
            }
            WatchItem::Initial { keys, token } => {
                for key in keys {
                    self.check_order(&key.key, key.version);
                    self.keys.insert(key.key, key.version);
                }
                token
            }
            WatchItem::Ready { token } => {
                is_ready = true;
                token
            }
            WatchItem::Reset { token } => {
                self.keys.clear();
                self.told.clear();
                token
            }
            WatchItem::Position { token } => token,
            WatchItem::End(end) => panic!("{end}"),
        };
        self.token = Some(token.to_string());
        is_ready
    }

    fn apply(&mut self, event: &WatchEvent) {
        let change = &event.change;
        self.check_order(&change.key, change.version);
        match change.kind {
            KeyChangeKind::Put(_) => {
                self.keys.insert(change.key.clone(), change.version);
            }
            KeyChangeKind::Deleted | KeyChangeKind::Expired => {
                self.keys.remove(&change.key);
            }
            KeyChangeKind::BucketDropped => panic!("it ends the stream instead"),
        }
    }

    /// Checks that the versions of a key rise within one stream. An expiry has that of the put.
    fn check_order(&mut self, key: &Bytes, version: Version) {
        let before = self.told.insert(key.clone(), version);
        assert!(before.is_none_or(|before| before <= version), "{key:?}");
    }

    /// Takes items until the client has exactly what the bucket has.
    pub(super) async fn catch_up(&mut self, node: &TestNode) {
        let content = node.content().await;
        while self.keys != content {
            self.take().await;
        }
    }
}
