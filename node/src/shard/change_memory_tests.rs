//! Tests of the memory with a log of entries that have nothing but sizes.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::change_pins::MAX_PINS;
use super::*;
use crate::types::Version;

/// Memory of a change whose key has one byte.
const CHANGE_BYTES: usize = 225;

fn change(key_bytes: usize) -> RememberedChange {
    let bucket = BucketId::parse(b"aAAAAAAAAAAAAA").unwrap();
    RememberedChange::deleted(bucket, &vec![b'k'; key_bytes], Version::default())
}

/// Log of entries, and the memory of their changes.
struct TestLog {
    memory: ChangeMemory,
    pending: PendingChanges,
    index: u64,
    /// Index and memory of each change.
    all: Vec<(u64, usize)>,
}

impl TestLog {
    fn new(max_bytes: usize, max_pinned_bytes: usize) -> Self {
        let limits = ChangeLimits {
            max_bytes,
            max_pinned_bytes,
        };
        Self {
            memory: ChangeMemory::new(limits, 0),
            pending: PendingChanges::new(limits.total()),
            index: 0,
            all: Vec::new(),
        }
    }

    /// Writes a batch of entries, each of which changes keys of these sizes.
    fn publish(&mut self, entries: &[Vec<usize>]) {
        for keys in entries {
            self.index += 1;
            for key_bytes in keys {
                let change = change(*key_bytes);
                self.all.push((self.index, change.bytes()));
                self.pending.push(change);
            }
            self.pending.end_entry(self.index);
        }
        self.memory.publish(&mut self.pending);
        self.trim();
    }

    /// Writes entries of one small change, one by one.
    fn publish_small(&mut self, count: usize) {
        for _ in 0..count {
            self.publish(&[vec![1]]);
        }
    }

    fn trim(&mut self) {
        while self.memory.trim() {}
    }

    /// Reads a page: the entries of its changes, and the entry up to which it is complete.
    fn read(&self, after: u64, up_to: u64, limit: usize) -> Option<(Vec<u64>, u64)> {
        let range = ChangesRange {
            after,
            up_to,
            bucket: None,
            filter: None,
            limit,
        };
        let mut found = Vec::new();
        let mut step = self.memory.read(&range, after, &mut found);
        while let ReadStep::More(index) = step {
            step = self.memory.read(&range, index, &mut found);
        }
        match step {
            ReadStep::End(index) => {
                Some((found.iter().map(RememberedChange::index).collect(), index))
            }
            _ => None,
        }
    }

    fn read_all(&self, after: u64) -> Option<Vec<u64>> {
        let (entries, up_to) = self.read(after, u64::MAX, usize::MAX)?;
        assert_eq!(up_to, self.index);
        Some(entries)
    }

    /// Returns the memory of all changes from an entry on.
    fn bytes_from(&self, index: u64) -> usize {
        let changes = self.all.iter().filter(|(of, _)| *of >= index);
        changes.map(|(_, bytes)| bytes).sum()
    }
}

#[test]
fn pages_end_between_entries() {
    let mut log = TestLog::new(10_000, 0);
    log.publish(&[vec![1, 1], vec![], vec![1, 1, 1]]);
    log.publish(&[vec![1]]);
    let all = u64::MAX;
    let cases: [(u64, u64, usize, &[u64], u64); 10] = [
        (0, all, 0, &[1, 1], 2),
        (0, all, 1, &[1, 1], 2),
        (0, all, 2, &[1, 1], 2),
        (0, all, 3, &[1, 1, 3, 3, 3], 3),
        (0, all, 6, &[1, 1, 3, 3, 3, 4], 4),
        (0, 3, 100, &[1, 1, 3, 3, 3], 3),
        (1, 2, 100, &[], 2),
        (2, 1, 100, &[], 2),
        (4, all, 100, &[], 4),
        (9, all, 100, &[], 4),
    ];
    for (after, up_to, limit, entries, end) in cases {
        let page = log.read(after, up_to, limit).unwrap();
        assert_eq!(page, (entries.to_vec(), end), "{after} {up_to} {limit}");
    }
}

#[test]
fn a_read_looks_at_a_bounded_number_of_changes_at_a_time() {
    let mut log = TestLog::new(10 << 20, 0);
    let entries = vec![vec![1]; MAX_SCANNED_CHANGES + 10];
    log.publish(&entries);
    let other = BucketId::parse(b"aBBBBBBBBBBBBB").unwrap();
    let range = ChangesRange {
        after: 0,
        up_to: u64::MAX,
        bucket: Some(&other),
        filter: None,
        limit: 1,
    };
    let mut found = Vec::new();
    let scanned = MAX_SCANNED_CHANGES as u64;
    let step = log.memory.read(&range, 0, &mut found);
    assert_eq!(step, ReadStep::More(scanned));
    let step = log.memory.read(&range, scanned, &mut found);
    assert_eq!(step, ReadStep::End(scanned + 10));
    assert!(found.is_empty());
    assert_eq!(log.read_all(0).unwrap().len(), entries.len());
}

#[test]
fn an_entry_that_exceeds_the_bound_alone_is_what_the_memory_begins_after() {
    // Left out before it is written, and evicted behind that.
    for max_pinned_bytes in [0, 20 * CHANGE_BYTES] {
        let mut log = TestLog::new(4 * CHANGE_BYTES, max_pinned_bytes);
        log.publish_small(1);
        log.publish(&[vec![1; 10]]);
        assert_eq!(log.read_all(1), None);
        assert_eq!(log.read_all(2), Some(vec![]));
        assert_eq!(log.memory.bytes(), 0);
        log.publish_small(2);
        assert_eq!(log.read_all(2), Some(vec![3, 4]));
    }
}

#[test]
fn without_memory_all_but_the_last_entry_is_too_old() {
    let mut log = TestLog::new(0, 10_000);
    let until = Instant::now() + Duration::from_secs(1);
    assert!(log.memory.pin(1, 0, until));
    log.publish_small(2);
    log.publish(&[vec![]]);
    assert_eq!(log.read_all(2), None);
    assert_eq!(log.read_all(3), Some(vec![]));
    assert!(!log.memory.pin(1, 2, until) && log.memory.pin(1, 3, until));
}

#[test]
fn a_pin_keeps_what_it_needs_up_to_its_own_bound() {
    let mut log = TestLog::new(3 * CHANGE_BYTES, 2 * CHANGE_BYTES);
    let until = Instant::now() + Duration::from_secs(1);
    log.publish_small(3);
    assert!(log.memory.pin(1, 0, until));
    // Needs less: it lasts for longer.
    assert!(log.memory.pin(2, 3, until));
    log.publish_small(2);
    assert_eq!(log.read_all(0), Some(vec![1, 2, 3, 4, 5]));
    log.publish_small(1);
    assert!(!log.memory.reaches_back_to(0) && log.memory.has_pins());
    assert_eq!(log.read_all(3), Some(vec![4, 5, 6]));
    log.publish_small(2);
    assert_eq!(log.read_all(3), Some(vec![4, 5, 6, 7, 8]));
    log.publish_small(1);
    assert!(!log.memory.has_pins());
    assert_eq!(log.read_all(6), Some(vec![7, 8, 9]));
    assert!(!log.memory.pin(1, 5, until), "entry 6 was evicted");
}

#[test]
fn a_pin_ends_at_its_time_when_it_is_removed_or_replaced() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let pinned = || {
        let mut log = TestLog::new(2 * CHANGE_BYTES, 100 * CHANGE_BYTES);
        assert!(log.memory.pin(7, 0, after(10)));
        log.publish_small(20);
        assert_eq!(log.memory.bytes(), 20 * CHANGE_BYTES);
        log
    };
    let mut log = pinned();
    log.memory.expire_pins(after(9));
    log.trim();
    assert!(log.memory.reaches_back_to(0));
    log.memory.expire_pins(after(10));
    log.trim();
    assert_eq!(log.read_all(18), Some(vec![19, 20]));
    assert!(!log.memory.reaches_back_to(17));
    let mut log = pinned();
    log.memory.unpin(8);
    log.trim();
    assert!(log.memory.reaches_back_to(0));
    log.memory.unpin(7);
    log.trim();
    assert!(!log.memory.reaches_back_to(17));
    let mut log = pinned();
    assert!(log.memory.pin(7, 15, after(20)));
    log.trim();
    assert!(!log.memory.reaches_back_to(14) && log.memory.reaches_back_to(15));
    // A pin of what isn't there any more is none.
    assert!(!log.memory.pin(7, 14, after(20)) && !log.memory.has_pins());
}

#[test]
fn pins_are_bounded_in_number() {
    let mut log = TestLog::new(1000, 1000);
    let until = Instant::now() + Duration::from_secs(1);
    for id in 0..MAX_PINS as u64 {
        assert!(log.memory.pin(id, 0, until));
    }
    assert!(!log.memory.pin(MAX_PINS as u64, 0, until));
    assert!(log.memory.pin(0, 0, until), "an existing pin is replaced");
    log.memory.unpin(0);
    assert!(log.memory.pin(MAX_PINS as u64, 0, until));
}

#[test]
fn memory_that_pins_have_taken_is_evicted_in_parts_and_released() {
    let count = 3 * MAX_EVICTED_CHANGES;
    let mut log = TestLog::new(10 * CHANGE_BYTES, 10 * count * CHANGE_BYTES);
    let until = Instant::now() + Duration::from_secs(1);
    assert!(log.memory.pin(1, 0, until));
    log.publish(&vec![vec![1]; count]);
    log.memory.unpin(1);
    assert!(log.memory.trim());
    let left = count - MAX_EVICTED_CHANGES;
    assert_eq!(log.memory.bytes(), left * CHANGE_BYTES);
    log.trim();
    assert_eq!(log.memory.bytes(), 10 * CHANGE_BYTES);
    assert!(log.memory.changes.capacity() <= 4 * MIN_CAPACITY);
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<Vec<usize>>),
    Pin { id: u64, back: u64, seconds: u64 },
    Unpin { id: u64 },
    AdvanceClock { seconds: u64 },
    Restart { by: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let keys = proptest::collection::vec(1..50_usize, 0..4);
    let entries = proptest::collection::vec(keys, 0..4);
    prop_oneof![
        12 => entries.prop_map(Step::Publish),
        3 => (0..4_u64, 0..12_u64, 1..20_u64)
            .prop_map(|(id, back, seconds)| Step::Pin { id, back, seconds }),
        1 => (0..4_u64).prop_map(|id| Step::Unpin { id }),
        2 => (1..10_u64).prop_map(|seconds| Step::AdvanceClock { seconds }),
        1 => (0..3_u64).prop_map(|by| Step::Restart { by }),
    ]
}

/// Bounds of the random test: a batch is never larger than both together.
const MAX_BYTES: usize = 2000;
const MAX_PINNED_BYTES: usize = 1500;

/// Checks what the memory has against the whole log.
fn check(log: &TestLog, restarted_at: u64) {
    let begin = log.memory.begins_after;
    let bytes = log.bytes_from(begin + 1);
    assert_eq!(log.memory.bytes(), bytes);
    assert!(bytes <= MAX_BYTES + MAX_PINNED_BYTES);
    assert!(bytes <= MAX_BYTES || log.memory.has_pins());
    // It evicts no more than it has to.
    assert!(begin == restarted_at || log.bytes_from(begin) > MAX_BYTES);
    for after in 0..=log.index {
        let entries = log.all.iter().map(|(index, _)| *index);
        let expected: Vec<u64> = entries.filter(|index| *index > after).collect();
        let expected = (after >= begin).then_some(expected);
        assert_eq!(log.read_all(after), expected, "after {after}");
    }
}

proptest! {
    #[test]
    fn the_memory_is_the_end_of_the_log_within_its_bounds(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut log = TestLog::new(MAX_BYTES, MAX_PINNED_BYTES);
        let mut pins = BTreeMap::new();
        let mut now = Instant::now();
        let mut restarted_at = 0;
        for step in steps {
            match step {
                Step::Publish(entries) => log.publish(&entries),
                Step::Pin { id, back, seconds } => {
                    let after = log.index.saturating_sub(back);
                    let until = now + Duration::from_secs(seconds);
                    let is_kept = log.memory.pin(id, after, until);
                    prop_assert_eq!(is_kept, after >= log.memory.begins_after);
                    pins.remove(&id);
                    if is_kept {
                        pins.insert(id, (after, until));
                    }
                }
                Step::Unpin { id } => {
                    log.memory.unpin(id);
                    pins.remove(&id);
                }
                Step::AdvanceClock { seconds } => {
                    now += Duration::from_secs(seconds);
                    log.memory.expire_pins(now);
                    log.memory.expire_pins(now);
                    pins.retain(|_, (_, until)| now < *until);
                }
                Step::Restart { by } => {
                    log.index += by;
                    log.all.clear();
                    log.memory.restart(log.index);
                    restarted_at = log.index;
                    pins.retain(|_, (after, _)| *after >= restarted_at);
                }
            }
            log.trim();
            // A pin lasts until both bounds together are too small for it.
            let bound = MAX_BYTES + MAX_PINNED_BYTES;
            pins.retain(|_, (after, _)| log.bytes_from(*after + 1) <= bound);
            for (after, _) in pins.values() {
                prop_assert!(log.memory.reaches_back_to(*after));
            }
            check(&log, restarted_at);
        }
    }
}
