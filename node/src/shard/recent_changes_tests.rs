//! Tests of the recent changes of one shard: which changes are told, and when.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};

use super::*;
use crate::shard::state::StateMemory;
use crate::shard::test_region::{BUCKET, TestRegion};
use crate::types::{BucketId, KeyChangeKind, KeyFilter, PutDetails, Version};

fn bucket() -> BucketId {
    BucketId::parse(BUCKET).unwrap()
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'k', number])
}

fn all_after(after: u64) -> ChangesRange<'static> {
    ChangesRange {
        after,
        up_to: u64::MAX,
        bucket: None,
        filter: None,
        limit: usize::MAX,
    }
}

fn changes_after(region: &TestRegion, after: u64) -> Vec<KeyChange> {
    let view = region.view();
    let page = view.recent_changes().read(&all_after(after)).unwrap();
    assert_eq!(page.up_to, region.written_index());
    page.changes
}

/// Expected change of the last entry.
fn expected(region: &TestRegion, number: u8, version: Version, kind: KeyChangeKind) -> KeyChange {
    KeyChange {
        index: region.written_index(),
        bucket: bucket(),
        key: key(number),
        version,
        kind,
    }
}

fn put_of(value: &str, expires_at: Option<u64>) -> KeyChangeKind {
    KeyChangeKind::Put(PutDetails {
        size: value.len() as u64,
        expires_at,
        ..PutDetails::default()
    })
}

/// Returns the version that the last write made.
fn last_version(region: &TestRegion) -> Version {
    Version {
        time: region.state.header.last_version,
        region: region.identity.region,
    }
}

fn other_region() -> pb::Peer {
    pb::Peer {
        region: 2,
        incarnation: 102,
    }
}

#[test]
fn puts_touches_deletes_and_expiries_are_told_with_their_versions() {
    for peers in [vec![], vec![other_region()]] {
        let mut region = TestRegion::new(1, false);
        region.set_peers(1, peers);
        let (start, mut told) = (region.written_index(), Vec::new());
        region.put(1, "value", 0);
        told.push(expected(
            &region,
            1,
            last_version(&region),
            put_of("value", None),
        ));
        let metadata = Bytes::from_static(b"{\"a\":1}");
        region.write(
            1,
            Op::Touch(pb::Touch {
                metadata: Some(metadata.clone()),
                ..Default::default()
            }),
        );
        let touched = KeyChangeKind::Put(PutDetails {
            size: 5,
            metadata,
            ..PutDetails::default()
        });
        told.push(expected(&region, 1, last_version(&region), touched));
        region.write(1, Op::Delete(pb::Delete {}));
        let deleted = KeyChangeKind::Deleted;
        told.push(expected(&region, 1, last_version(&region), deleted));
        // There is nothing to delete, nor anything that a reader sees.
        region.write(1, Op::Delete(pb::Delete {}));
        region.write(2, Op::Delete(pb::Delete {}));
        region.put(3, "brief", 5);
        let version = last_version(&region);
        let brief = put_of("brief", Some(version.time + 5));
        told.push(expected(&region, 3, version, brief));
        region.expire(version.time + 4);
        region.expire(version.time + 5);
        told.push(expected(&region, 3, version, KeyChangeKind::Expired));
        region.expire(version.time + 1000);
        region.collect();
        assert_eq!(changes_after(&region, start), told);
    }
}

/// Merges a record of the other region, at the next position of its history.
fn merge(region: &mut TestRegion, number: u8, record: pb::Record) {
    let position = region.peer(2).cursor;
    let merged = pb::KeyRecord {
        bucket: Bytes::from_static(BUCKET),
        key: key(number),
        record: Some(record),
    };
    region.merge(pb::Merge {
        origin: 2,
        incarnation: 102,
        from: position,
        to: position + 1,
        records: vec![merged],
        ..Default::default()
    });
}

fn live(time: u64, expires_at: u64) -> pb::Record {
    pb::Record {
        version: Some(pb::Version { time, region: 2 }),
        expires_at,
        value: Bytes::from_static(b"value"),
        ..Default::default()
    }
}

fn tombstone(time: u64) -> pb::Record {
    pb::Record {
        version: Some(pb::Version { time, region: 2 }),
        tombstone: true,
        ..Default::default()
    }
}

#[test]
fn writes_of_other_regions_are_told_if_they_win() {
    let mut region = TestRegion::new(1, false);
    region.set_peers(1, vec![other_region()]);
    let (start, mut told) = (region.written_index(), Vec::new());
    let at = |time| Version { time, region: 2 };
    merge(&mut region, 1, live(100, 0));
    told.push(expected(&region, 1, at(100), put_of("value", None)));
    merge(&mut region, 1, live(90, 0));
    merge(&mut region, 1, live(100, 0));
    merge(&mut region, 1, tombstone(200));
    told.push(expected(&region, 1, at(200), KeyChangeKind::Deleted));
    merge(&mut region, 1, tombstone(210));
    // It has expired there, where it keeps its version.
    merge(&mut region, 2, live(300, 10_000));
    told.push(expected(&region, 2, at(300), put_of("value", Some(10_000))));
    merge(&mut region, 2, tombstone(300));
    told.push(expected(&region, 2, at(300), KeyChangeKind::Expired));
    // Values that expired on their way: one replaces a live record, one was never seen.
    merge(&mut region, 3, live(400, 0));
    told.push(expected(&region, 3, at(400), put_of("value", None)));
    merge(&mut region, 3, live(500, 450));
    told.push(expected(&region, 3, at(500), KeyChangeKind::Expired));
    merge(&mut region, 4, live(600, 550));
    assert_eq!(changes_after(&region, start), told);
}

#[test]
fn the_drop_of_a_bucket_is_told_once_to_all_who_follow_its_keys() {
    let mut region = TestRegion::new(1, false);
    region.put(1, "value", 0);
    let start = region.written_index();
    let drop = || {
        Kind::DropBucket(pb::DropBucket {
            bucket: Bytes::from_static(BUCKET),
        })
    };
    region.apply(drop());
    let dropped = KeyChange {
        index: region.written_index(),
        bucket: bucket(),
        key: Bytes::new(),
        version: Version::default(),
        kind: KeyChangeKind::BucketDropped,
    };
    region.apply(drop());
    region.put(1, "refused", 0);
    assert_eq!(
        changes_after(&region, start),
        std::slice::from_ref(&dropped)
    );
    let filter = KeyFilter::Key(key(1));
    let other = BucketId::parse(b"aBBBBBBBBBBBBB").unwrap();
    for (of, told) in [(bucket(), vec![dropped]), (other, vec![])] {
        let range = ChangesRange {
            bucket: Some(&of),
            filter: Some(&filter),
            ..all_after(start)
        };
        let page = region.view().recent_changes().read(&range).unwrap();
        assert_eq!(page.changes, told);
    }
}

#[test]
fn seeding_is_not_told_and_the_memory_begins_behind_it() {
    let mut region = TestRegion::new(3, true);
    for number in 1..3 {
        let copied = pb::KeyRecord {
            bucket: Bytes::from_static(BUCKET),
            key: key(number),
            record: Some(live(100, 0)),
        };
        region.apply(Kind::Seed(pb::SeedChunk {
            records: vec![copied],
            ..Default::default()
        }));
    }
    let seeded = region.written_index();
    region.apply(Kind::Seed(pb::SeedChunk {
        end: Some(pb::SeedPosition::default()),
        ..Default::default()
    }));
    let view = region.view();
    let last_index = region.written_index();
    let refused = view.recent_changes().read(&all_after(seeded - 1));
    assert_eq!(refused, Err(TooOld { last_index }));
    assert!(changes_after(&region, seeded).is_empty());
    region.put(1, "value", 0);
    let told = expected(&region, 1, last_version(&region), put_of("value", None));
    assert_eq!(changes_after(&region, last_index), [told]);
}

#[test]
fn changes_are_told_once_they_are_written_and_never_if_their_batch_is_discarded() {
    let mut region = TestRegion::new(1, false);
    region.put(1, "before", 0);
    let view = region.view();
    let (changes, written) = (view.recent_changes(), region.written_index());
    let put = |number: u8| {
        let write = pb::Write {
            bucket: Bytes::from_static(BUCKET),
            key: key(number),
            op: Some(Op::Put(pb::Put {
                may_create: true,
                ..Default::default()
            })),
            condition: None,
        };
        let writes = vec![write];
        Kind::Writes(pb::WriteBatch { time: 1, writes })
    };
    region.apply_to_batch(put(2));
    region.apply_to_batch(put(3));
    assert_eq!(changes.last_index(), written);
    assert!(changes_after(&region, written).is_empty());
    region.write_batch();
    let told = changes_after(&region, written);
    let keys: Vec<_> = told.iter().map(|it| (it.index, it.key.clone())).collect();
    assert_eq!(keys, [(written + 1, key(2)), (written + 2, key(3))]);
    // A failed batch, behind which the state is read again.
    region.apply_to_batch(put(4));
    region.reload();
    let reloaded = region.written_index();
    assert_eq!(changes.last_index(), reloaded);
    assert!(!changes.reaches_back_to(written) && changes.reaches_back_to(reloaded));
    region.apply(put(5));
    let told = changes_after(&region, reloaded);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].index, &told[0].key), (reloaded + 1, &key(5)));
}

#[test]
fn subscribers_get_the_last_entry_and_each_batch_behind_it() {
    let mut region = TestRegion::new(1, false);
    let view = region.view();
    let changes = view.recent_changes();
    region.put(1, "nobody waits", 0);
    let mut first = changes.subscribe();
    assert_eq!(*first.borrow_and_update(), region.written_index());
    region.put(1, "value", 0);
    assert!(first.has_changed().unwrap());
    let second = changes.subscribe();
    for updates in [&first, &second] {
        assert_eq!(*updates.borrow(), region.written_index());
    }
    drop((first, second));
    // An entry without a change counts, too.
    region.expire(1);
    assert_eq!(*changes.subscribe().borrow(), region.written_index());
}

#[test]
fn pins_hold_until_they_end_or_are_removed() {
    let memory = StateMemory {
        recent_changes: 1000,
        pinned_changes: 100_000,
        ..StateMemory::TEST
    };
    let mut region = TestRegion::with_memory(1, false, memory);
    let view = region.view();
    let changes = view.recent_changes();
    let start = region.written_index();
    // The first has ended by the time at which the next change is recorded.
    assert!(changes.pin(1, start, Instant::now()));
    assert!(changes.pin(2, start + 10, Instant::now() + Duration::from_secs(3600)));
    for _ in 0..60 {
        region.put(1, "value", 0);
    }
    assert!(!changes.reaches_back_to(start + 9) && changes.reaches_back_to(start + 10));
    assert!(changes.bytes() > memory.recent_changes);
    changes.unpin(2);
    assert!(!changes.reaches_back_to(start + 50));
    assert!(changes.bytes() <= memory.recent_changes);
}

#[test]
fn without_memory_only_the_last_entry_is_known() {
    let memory = StateMemory {
        recent_changes: 0,
        ..StateMemory::TEST
    };
    let mut region = TestRegion::with_memory(1, false, memory);
    region.put(1, "value", 0);
    let last_index = region.written_index();
    let view = region.view();
    let refused = view.recent_changes().read(&all_after(last_index - 1));
    assert_eq!(refused, Err(TooOld { last_index }));
    assert!(changes_after(&region, last_index).is_empty());
    assert_eq!(view.recent_changes().bytes(), 0);
}

#[test]
fn a_view_has_the_incarnation_of_its_region() {
    let region = TestRegion::new(2, false);
    let view = region.view();
    assert_eq!((view.region(), view.incarnation()), (2, 102));
}

#[test]
fn a_reader_on_another_thread_gets_each_change_once() {
    const ENTRIES: u64 = 20_000;
    let limits = ChangeLimits {
        max_bytes: 1 << 30,
        max_pinned_bytes: 0,
    };
    let changes = RecentChanges::new(limits, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pending = PendingChanges::new(limits.total());
            for index in 1..=ENTRIES {
                let version = Version {
                    time: index,
                    region: 1,
                };
                pending.push(RememberedChange::deleted(bucket(), b"key", version));
                pending.end_entry(index);
                if index.is_multiple_of(7) || index == ENTRIES {
                    changes.publish(&mut pending);
                }
            }
        });
        let mut next = 1;
        let mut after = 0;
        while after < ENTRIES {
            let known = changes.last_index();
            let page = changes.read(&all_after(after)).unwrap();
            assert!(page.up_to >= known);
            for change in page.changes {
                assert_eq!((change.index, change.version.time), (next, next));
                next += 1;
            }
            assert_eq!(next, page.up_to + 1);
            after = page.up_to;
            std::thread::yield_now();
        }
    });
}
