//! A change as watchers are told it: with its token, its value and its text, each made once for all
//! watchers.
//!
//! Invariant: while an event is in a ring, its bytes are counted once, also those that it gains
//! meanwhile, and its place in each ring; and no longer.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::buffer::BufferedBytes;
use crate::types::{KeyChange, KeyChangeKind};

/// Approximate size of a change's text, apart from the key, the metadata and such, in bytes.
const TEXT_BYTES: usize = 256;
/// Memory of an event's place in a ring, in bytes: a slot of a queue that may be half empty.
const PLACE_BYTES: usize = 32;

/// Change of a watched bucket.
#[derive(Debug)]
pub struct WatchEvent {
    /// The change.
    pub change: KeyChange,
    /// Token of the position behind which a client goes on that was told this event.
    pub token: Arc<str>,
    /// The value; `None` if the key has another one by now.
    value: OnceCell<Option<Bytes>>,
    /// Text without the value, and with it.
    texts: [OnceLock<Bytes>; 2],
    buffered: Buffered,
}

impl WatchEvent {
    /// Creates an event of a bucket whose events in rings `counter` counts.
    pub(super) fn new(change: KeyChange, token: Arc<str>, counter: &Arc<BufferedBytes>) -> Self {
        let bytes = size_of::<Self>() + text_bytes(&change, &token);
        Self {
            change,
            token,
            value: OnceCell::new(),
            texts: Default::default(),
            buffered: Buffered::new(bytes, Some(counter.clone())),
        }
    }

    /// Creates an event for one watcher, which is never in a ring.
    pub(crate) fn unbuffered(change: KeyChange, token: Arc<str>) -> Self {
        Self {
            change,
            token,
            value: OnceCell::new(),
            texts: Default::default(),
            buffered: Buffered::new(0, None),
        }
    }

    /// Returns a copy for one watcher, with a value that isn't kept for the others.
    pub fn with_value(&self, value: Bytes) -> Self {
        Self {
            value: OnceCell::new_with(Some(Some(value))),
            ..Self::unbuffered(self.change.clone(), self.token.clone())
        }
    }

    /// Value that a put wrote, if it was loaded, for those who want values.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.get().and_then(Option::as_ref)
    }

    /// Loads the value with `load`, unless it is there. `load` returns `None` if the key has
    /// another value by now. Cancel safe: another caller loads it then.
    pub(super) async fn load_value<E, L>(&self, load: impl FnOnce() -> L) -> Result<(), E>
    where
        L: Future<Output = Result<Option<Bytes>, E>>,
    {
        let load_and_count = || async {
            let value = load().await?;
            self.buffered.grow(value.as_ref().map_or(0, Bytes::len));
            Ok(value)
        };
        self.value.get_or_try_init(load_and_count).await.map(|_| ())
    }

    /// Returns the text that the API makes of the event: `render` is called once for all watchers,
    /// for the text without the value and for that with it.
    pub fn rendered(&self, with_value: bool, render: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let text = self.texts[usize::from(with_value)].get_or_init(|| {
            let text = render(self);
            self.buffered.grow(text.len());
            text
        });
        text.clone()
    }

    /// Returns about how many bytes a watcher is told.
    pub(super) fn told_bytes(&self, with_value: bool) -> usize {
        let value = match &self.change.kind {
            KeyChangeKind::Put(details) if with_value => {
                usize::try_from(details.size).unwrap_or(usize::MAX)
            }
            _ => 0,
        };
        text_bytes(&self.change, &self.token).saturating_add(value)
    }

    /// Records that the event is in one more ring.
    pub(super) fn enter_ring(&self) {
        self.buffered.enter();
    }

    /// Records that the event was removed from a ring.
    pub(super) fn leave_ring(&self) {
        self.buffered.leave();
    }

    /// Returns the bytes that it is counted with while it is in a ring, without its places.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered.state.lock().bytes
    }
}

/// Returns the position behind which a client goes on that was told a change: the entry before its
/// own, while there are more changes of that entry.
pub(super) fn told_position(change: &KeyChange, next_index: Option<u64>) -> u64 {
    if next_index == Some(change.index) {
        change.index.saturating_sub(1)
    } else {
        change.index
    }
}

fn text_bytes(change: &KeyChange, token: &str) -> usize {
    let details = match &change.kind {
        KeyChangeKind::Put(details) => details.content_type.len() + details.metadata.len(),
        KeyChangeKind::Deleted | KeyChangeKind::Expired | KeyChangeKind::BucketDropped => 0,
    };
    TEXT_BYTES + change.key.len() + details + token.len()
}

/// Bytes of an event, counted while it is in a ring.
#[derive(Debug)]
struct Buffered {
    counter: Option<Arc<BufferedBytes>>,
    state: Mutex<BufferedState>,
}

#[derive(Debug)]
struct BufferedState {
    bytes: usize,
    /// Number of rings that have the event.
    rings: usize,
}

impl Buffered {
    fn new(bytes: usize, counter: Option<Arc<BufferedBytes>>) -> Self {
        let state = BufferedState { bytes, rings: 0 };
        Self {
            counter,
            state: Mutex::new(state),
        }
    }

    fn grow(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes += bytes;
        if let Some(counter) = self.counter.as_ref().filter(|_| state.rings > 0) {
            counter.add(bytes);
        }
    }

    fn enter(&self) {
        let mut state = self.state.lock();
        state.rings += 1;
        let bytes = if state.rings == 1 { state.bytes } else { 0 };
        if let Some(counter) = &self.counter {
            counter.add(bytes + PLACE_BYTES);
        }
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.rings -= 1;
        let bytes = if state.rings == 0 { state.bytes } else { 0 };
        if let Some(counter) = &self.counter {
            counter.subtract(bytes + PLACE_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BucketId, PutDetails, Version};

    fn event(counter: &Arc<BufferedBytes>) -> WatchEvent {
        let change = KeyChange {
            index: 7,
            bucket: BucketId::parse(b"aAAAAAAAAAAAAA").unwrap(),
            key: Bytes::from_static(b"key"),
            version: Version { time: 1, region: 1 },
            kind: KeyChangeKind::Put(PutDetails {
                size: 5,
                ..PutDetails::default()
            }),
        };
        WatchEvent::new(change, Arc::from("token"), counter)
    }

    #[test]
    fn bytes_count_while_the_event_is_in_a_ring() {
        let counter = Arc::new(BufferedBytes::new(Arc::default()));
        let event = event(&counter);
        let text = |event: &WatchEvent| event.change.key.clone();
        assert_eq!(event.rendered(false, text).len(), 3);
        assert_eq!(counter.of_bucket(), 0);
        event.enter_ring();
        event.enter_ring();
        let before = event.buffered_bytes();
        assert_eq!(counter.of_bucket(), before + 2 * PLACE_BYTES);
        let longer = |_: &WatchEvent| Bytes::from_static(b"with value");
        assert_eq!(event.rendered(true, longer).len(), 10);
        assert_eq!(counter.of_bucket(), before + 10 + 2 * PLACE_BYTES);
        event.leave_ring();
        assert_eq!(counter.of_bucket(), before + 10 + PLACE_BYTES);
        event.leave_ring();
        assert_eq!(counter.of_bucket(), 0);
        // The text was made once.
        assert_eq!(event.rendered(true, |_| Bytes::new()).len(), 10);
    }

    #[tokio::test]
    async fn a_value_is_loaded_once_and_after_a_failure_again() {
        let counter = Arc::new(BufferedBytes::new(Arc::default()));
        let event = event(&counter);
        event.enter_ring();
        let before = counter.of_bucket();
        let failed = event.load_value(|| async { Err("busy") }).await;
        assert_eq!((failed, event.value()), (Err("busy"), None));
        let value = Bytes::from_static(b"value");
        for other in [value.clone(), Bytes::new()] {
            let loaded = event.load_value(|| async { Ok::<_, &str>(Some(other)) });
            assert_eq!(loaded.await, Ok(()));
            assert_eq!(event.value(), Some(&value));
        }
        assert_eq!(counter.of_bucket(), before + 5);
    }

    #[test]
    fn a_copy_with_a_value_is_not_counted() {
        let counter = Arc::new(BufferedBytes::new(Arc::default()));
        let copy = event(&counter).with_value(Bytes::from_static(b"value"));
        assert_eq!(copy.value().map(Bytes::len), Some(5));
        assert!(copy.told_bytes(true) == copy.told_bytes(false) + 5);
        assert_eq!(counter.of_bucket(), 0);
    }
}
