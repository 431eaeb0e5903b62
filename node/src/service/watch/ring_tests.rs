use bytes::Bytes;

use super::*;
use crate::service::watch::buffer::BufferedBytes;
use crate::types::{BucketId, KeyChange, KeyChangeKind, Version};

fn event(index: u64, counter: &Arc<BufferedBytes>) -> Arc<WatchEvent> {
    let change = KeyChange {
        index,
        bucket: BucketId::parse(b"aAAAAAAAAAAAAA").unwrap(),
        key: Bytes::from_static(b"key"),
        version: Version::default(),
        kind: KeyChangeKind::Deleted,
    };
    Arc::new(WatchEvent::new(change, Arc::from("token"), counter))
}

struct Fixture {
    ring: EventRing,
    counter: Arc<BufferedBytes>,
    pushed: u64,
}

impl Fixture {
    fn new() -> Self {
        Self {
            ring: EventRing::new(),
            counter: Arc::new(BufferedBytes::new(Arc::default())),
            pushed: 0,
        }
    }

    fn push(&mut self, count: u64) {
        for _ in 0..count {
            self.pushed += 1;
            self.ring.push(&event(self.pushed, &self.counter));
        }
    }

    fn slots(&self) -> usize {
        self.ring.state.lock().slots.len()
    }

    /// Takes what there is, up to `max_bytes`, and returns the indexes.
    fn take(&self, cursor: &mut u64, max_bytes: usize) -> (Taken, Vec<u64>) {
        let mut events = Vec::new();
        let taken = self.ring.take(cursor, max_bytes, false, &mut events);
        (
            taken,
            events.iter().map(|event| event.change.index).collect(),
        )
    }
}

#[test]
fn a_slot_goes_once_all_streams_have_taken_it() {
    let mut fixture = Fixture::new();
    fixture.push(1);
    assert_eq!(fixture.slots(), 0, "nobody would take it");
    let mut early = fixture.ring.join();
    fixture.push(2);
    let mut late = fixture.ring.join();
    fixture.push(1);
    assert_eq!(
        fixture.take(&mut late, usize::MAX),
        (Taken::Events, vec![4])
    );
    assert_eq!(
        fixture.take(&mut late, usize::MAX),
        (Taken::Nothing, vec![])
    );
    assert_eq!(fixture.slots(), 3);
    assert_eq!(fixture.take(&mut early, 1), (Taken::Events, vec![2]));
    assert_eq!(fixture.slots(), 2);
    assert!(fixture.ring.has_all(late) && !fixture.ring.has_all(early));
    assert_eq!(
        fixture.take(&mut early, usize::MAX),
        (Taken::Events, vec![3, 4])
    );
    assert_eq!((fixture.slots(), fixture.counter.of_bucket()), (0, 0));
    assert!(!fixture.ring.leave(early));
    assert!(fixture.ring.leave(late));
}

#[test]
fn the_slots_of_a_stream_go_when_it_leaves() {
    let mut fixture = Fixture::new();
    let slow = fixture.ring.join();
    fixture.push(2);
    let mut fast = fixture.ring.join();
    fixture.push(2);
    assert!(!fixture.ring.leave(slow));
    assert_eq!(fixture.slots(), 2);
    assert_eq!(
        fixture.take(&mut fast, usize::MAX),
        (Taken::Events, vec![3, 4])
    );
    assert!(fixture.ring.leave(fast));
}

#[test]
fn only_the_slowest_streams_lose_their_place() {
    let mut fixture = Fixture::new();
    let (mut slow, mut slower, mut fast) = (
        fixture.ring.join(),
        fixture.ring.join(),
        fixture.ring.join(),
    );
    fixture.push(4);
    fixture.take(&mut slow, 1);
    fixture.take(&mut fast, usize::MAX);
    assert!(fixture.ring.evict().is_some());
    assert_eq!(fixture.slots(), 3);
    assert_eq!(
        fixture.take(&mut slower, usize::MAX),
        (Taken::TooSlow, vec![])
    );
    assert!(fixture.ring.evict().is_some());
    assert_eq!(
        fixture.take(&mut slow, usize::MAX),
        (Taken::TooSlow, vec![])
    );
    assert_eq!((fixture.slots(), fixture.counter.of_bucket()), (0, 0));
    // There is none to evict.
    assert_eq!(fixture.ring.evict(), None);
    fixture.push(1);
    assert_eq!(
        fixture.take(&mut fast, usize::MAX),
        (Taken::Events, vec![5])
    );
    for cursor in [slow, slower] {
        assert!(!fixture.ring.leave(cursor));
    }
    assert!(fixture.ring.leave(fast));
}

#[test]
fn a_gap_concerns_all_streams_and_none_that_joins_later() {
    let mut fixture = Fixture::new();
    let (mut behind, mut at_end) = (fixture.ring.join(), fixture.ring.join());
    fixture.push(1);
    fixture.take(&mut at_end, usize::MAX);
    fixture.ring.lose_all();
    assert_eq!(fixture.counter.of_bucket(), 0);
    let mut later = fixture.ring.join();
    fixture.push(1);
    for cursor in [&mut behind, &mut at_end] {
        assert_eq!(fixture.take(cursor, usize::MAX), (Taken::Gap, vec![]));
        assert!(!fixture.ring.has_all(*cursor));
        assert!(!fixture.ring.leave(*cursor));
    }
    assert_eq!(
        fixture.take(&mut later, usize::MAX),
        (Taken::Events, vec![2])
    );
    assert!(fixture.ring.leave(later));
}

#[test]
fn an_end_comes_at_once_and_is_final() {
    let mut fixture = Fixture::new();
    let (mut behind, at_end) = (fixture.ring.join(), fixture.ring.join());
    fixture.push(1);
    fixture.ring.finish(WatchEnd::Draining);
    fixture.push(1);
    assert_eq!(fixture.counter.of_bucket(), 0);
    let end = Taken::End(WatchEnd::Draining);
    assert_eq!(fixture.take(&mut behind, usize::MAX), (end, vec![]));
    assert!(!fixture.ring.has_all(at_end));
    assert!(!fixture.ring.leave(at_end));
    assert!(fixture.ring.leave(behind));
}

#[test]
fn a_ring_is_to_be_woken_once_for_several_events() {
    let fixture = Fixture::new();
    let mut changed = fixture.ring.subscribe();
    fixture.ring.join();
    assert!(fixture.ring.push(&event(1, &fixture.counter)));
    assert!(!fixture.ring.push(&event(2, &fixture.counter)));
    assert!(!changed.has_changed().unwrap());
    fixture.ring.wake();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    assert!(fixture.ring.push(&event(3, &fixture.counter)));
}

#[test]
fn the_bytes_of_many_events_are_estimated() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.ring.bytes(), 0);
    fixture.ring.join();
    let one = event(1, &fixture.counter).buffered_bytes();
    for slots in [1, MAX_SUMMED_EVENTS, 1064] {
        fixture.push((slots - fixture.slots()) as u64);
        assert_eq!(fixture.slots(), slots);
        let (bytes, exact) = (fixture.ring.bytes(), slots * one);
        assert!(bytes >= exact && bytes < exact + exact / 16, "{slots}");
    }
}
