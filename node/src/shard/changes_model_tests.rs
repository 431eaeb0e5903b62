//! Compares what the recent changes of a shard tell with its content: random commands in random
//! batches, of users and of another region.
//!
//! Whoever has the content as of an entry, and applies the changes told behind it, has the content
//! of now; or is refused, since the memory doesn't reach back.

use std::collections::BTreeMap;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, touch::Expiry, write::Op};
use proptest::prelude::*;

use super::change_memory::ChangesRange;
use super::record;
use super::rows::for_each_row;
use super::state::StateMemory;
use super::test_region::TestRegion;
use crate::store::StoreError;
use crate::store::keys::{self, RowKind};
use crate::types::{BucketId, KeyChange, KeyChangeKind, KeyFilter, PutDetails, Version};

/// Buckets of all keys; the second one may be dropped.
const BUCKETS: [&[u8; 14]; 2] = [b"aAAAAAAAAAAAAA", b"aBBBBBBBBBBBBB"];
const KEYS: u8 = 3;
/// A memory for a few changes only.
const SMALL_MEMORY: StateMemory = StateMemory {
    recent_changes: 2000,
    pinned_changes: 0,
    ..StateMemory::TEST
};

type KeyId = (BucketId, Bytes);
/// Visible keys of a shard.
type Content = BTreeMap<KeyId, (Version, PutDetails)>;

#[derive(Clone, Debug)]
enum Step {
    /// A write of a user, here or in the other region.
    Write {
        is_here: bool,
        write: Box<pb::Write>,
    },
    /// A clock advances, and expired keys are removed.
    Expire {
        is_here: bool,
        by: u64,
    },
    /// All changes of one region reach the other.
    Send {
        is_from_here: bool,
        is_acknowledged: bool,
    },
    DropBucket,
    Collect,
    WriteBatch,
    /// The batch fails, and the state is read again.
    Reload,
}

fn write() -> impl Strategy<Value = pb::Write> {
    let expiry = prop_oneof![
        3 => Just((0_u64, 0_u64)),
        2 => (1..40_u64).prop_map(|ttl| (ttl, 0)),
        1 => (1..60_u64).prop_map(|expires_at| (0, expires_at)),
    ];
    let text = || "[a-c]{0,3}".prop_map(Bytes::from);
    let put = (text(), text(), text(), expiry);
    let touched_expiry = prop_oneof![
        Just(None),
        (1..40_u64).prop_map(|ttl| Some(Expiry::Ttl(ttl))),
        Just(Some(Expiry::Persist(true))),
    ];
    let op = prop_oneof![
        4 => put.prop_map(|(value, content_type, metadata, (ttl, expires_at))| Op::Put(pb::Put {
            value, content_type, metadata, ttl, expires_at, may_create: true,
        })),
        1 => (touched_expiry, proptest::option::of(text()))
            .prop_map(|(expiry, metadata)| Op::Touch(pb::Touch { expiry, metadata })),
        2 => Just(Op::Delete(pb::Delete {})),
    ];
    (0..BUCKETS.len(), 0..KEYS, op).prop_map(|(bucket, key, op)| pb::Write {
        bucket: Bytes::from_static(BUCKETS[bucket]),
        key: Bytes::from(format!("k{key}")),
        op: Some(op),
        condition: None,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = any::<(bool, bool)>();
    prop_oneof![
        12 => (proptest::bool::weighted(0.7), write())
            .prop_map(|(is_here, write)| Step::Write { is_here, write: Box::new(write) }),
        3 => (any::<bool>(), 1..30_u64).prop_map(|(is_here, by)| Step::Expire { is_here, by }),
        5 => flags.prop_map(|(is_from_here, is_acknowledged)| {
            Step::Send { is_from_here, is_acknowledged }
        }),
        1 => Just(Step::DropBucket),
        2 => Just(Step::Collect),
        6 => Just(Step::WriteBatch),
        1 => Just(Step::Reload),
    ]
}

/// The shard whose changes are read, and that of another region.
struct TwoRegions {
    here: TestRegion,
    there: TestRegion,
}

impl TwoRegions {
    fn new(memory: StateMemory) -> Self {
        let mut here = TestRegion::with_memory(1, false, memory);
        let mut there = TestRegion::new(2, false);
        let peers = vec![here.identity, there.identity];
        here.set_peers(1, peers.clone());
        there.set_peers(1, peers);
        Self { here, there }
    }

    fn region(&mut self, is_here: bool) -> &mut TestRegion {
        if is_here {
            &mut self.here
        } else {
            &mut self.there
        }
    }

    /// Takes a step: what it changes here may wait in the batch.
    fn take(&mut self, step: Step) {
        match step {
            Step::Write { is_here, write } => {
                let region = self.region(is_here);
                let (time, writes) = (region.clock, vec![*write]);
                region.apply_to_batch(Kind::Writes(pb::WriteBatch { time, writes }));
            }
            Step::Expire { is_here, by } => {
                let region = self.region(is_here);
                region.clock += by;
                let time = region.clock;
                let expire = pb::ExpireUpTo { time, limit: 2 };
                region.apply_to_batch(Kind::Expire(expire));
            }
            Step::Send {
                is_from_here,
                is_acknowledged,
            } => self.send(is_from_here, is_acknowledged),
            Step::DropBucket => {
                let bucket = Bytes::from_static(BUCKETS[1]);
                self.here
                    .apply_to_batch(Kind::DropBucket(pb::DropBucket { bucket }));
            }
            Step::Collect => {
                self.here.collect();
                self.there.collect();
            }
            Step::WriteBatch => self.here.write_batch(),
            Step::Reload => self.here.reload(),
        }
    }

    fn send(&mut self, is_from_here: bool, is_acknowledged: bool) {
        let (from, to) = if is_from_here {
            (&mut self.here, &mut self.there)
        } else {
            (&mut self.there, &mut self.here)
        };
        from.write_batch();
        let origin = from.identity.region;
        let cursor = to.peer(origin).cursor;
        for merge in from.batches(to.identity.region, cursor, 3) {
            let (time, merges) = (to.clock, vec![merge]);
            to.apply_to_batch(Kind::Merges(pb::Merges { time, merges }));
        }
        if is_acknowledged {
            to.write_batch();
            let reached = to.peer(origin).cursor;
            from.acknowledge(to.identity, reached);
        }
    }
}

/// Reads the visible keys from the rows.
fn content_of(region: &TestRegion) -> Content {
    let mut content = Content::new();
    let db = region.state.db.db_snapshot();
    let read = for_each_row(&db, region.state.rows, RowKind::Record, |row, value| {
        let (bucket, key) = keys::split_record(row).unwrap();
        let record = record::decode(value)?;
        if !record.tombstone {
            let id = (
                BucketId::parse(bucket).unwrap(),
                Bytes::copy_from_slice(key),
            );
            let details = PutDetails {
                size: record.value.len() as u64,
                expires_at: record::expiry_of(&record),
                content_type: record.content_type.clone(),
                metadata: record.metadata.clone(),
            };
            content.insert(id, (record::version_of(&record), details));
        }
        Ok::<_, StoreError>(())
    });
    read.unwrap();
    content
}

/// Applies a change to what a follower knows.
fn follow(content: &mut Content, change: &KeyChange) {
    let id = (change.bucket, change.key.clone());
    match &change.kind {
        KeyChangeKind::Put(details) => {
            content.insert(id, (change.version, details.clone()));
        }
        KeyChangeKind::Deleted | KeyChangeKind::Expired => {
            assert!(content.remove(&id).is_some(), "nobody saw it: {change:?}");
        }
        KeyChangeKind::BucketDropped => content.retain(|(bucket, _), _| *bucket != change.bucket),
    }
}

/// Reads all changes behind an entry in pages; `None` if the memory doesn't reach back.
fn changes_after(region: &TestRegion, after: u64, limit: usize) -> Option<Vec<KeyChange>> {
    let view = region.view();
    let recent_changes = view.recent_changes();
    let last = region.written_index();
    let mut range = ChangesRange {
        after,
        up_to: u64::MAX,
        bucket: None,
        filter: None,
        limit,
    };
    let mut changes: Vec<KeyChange> = Vec::new();
    loop {
        let page = match recent_changes.read(&range) {
            Ok(page) => page,
            Err(refusal) => {
                assert_eq!((range.after, refusal.last_index), (after, last));
                return None;
            }
        };
        let is_in_page = |it: &KeyChange| it.index > range.after && it.index <= page.up_to;
        assert!(page.changes.iter().all(is_in_page), "{page:?}");
        changes.extend(page.changes);
        if page.up_to == last {
            break;
        }
        assert!(page.up_to > range.after && page.up_to < last);
        range.after = page.up_to;
    }
    assert!(changes.is_sorted_by_key(|change| change.index));
    Some(changes)
}

/// Checks that no version falls, and that only the end of a key leaves it as it is.
fn check_versions(changes: &[KeyChange]) {
    let mut versions: BTreeMap<KeyId, Version> = BTreeMap::new();
    for change in changes {
        if change.kind == KeyChangeKind::BucketDropped {
            continue;
        }
        let before = versions.insert((change.bucket, change.key.clone()), change.version);
        let is_expiry = change.kind == KeyChangeKind::Expired;
        let is_next = before
            .is_none_or(|before| before < change.version || is_expiry && before == change.version);
        assert!(is_next, "{before:?} {change:?}");
    }
}

/// Checks that filters select what they should.
fn check_filters(region: &TestRegion, after: u64, changes: &[KeyChange]) {
    let view = region.view();
    for bucket in BUCKETS.map(|bucket| BucketId::parse(bucket).unwrap()) {
        let filters = [
            None,
            Some(KeyFilter::Prefix(Bytes::from_static(b"k"))),
            Some(KeyFilter::Key(Bytes::from_static(b"k1"))),
        ];
        for filter in &filters {
            let range = ChangesRange {
                after,
                up_to: u64::MAX,
                bucket: Some(&bucket),
                filter: filter.as_ref(),
                limit: usize::MAX,
            };
            let page = view.recent_changes().read(&range).unwrap();
            let is_told = |change: &&KeyChange| {
                let is_drop = change.kind == KeyChangeKind::BucketDropped;
                let is_wanted = filter.as_ref().is_none_or(|it| it.matches(&change.key));
                change.bucket == bucket && (is_drop || is_wanted)
            };
            let expected: Vec<_> = changes.iter().filter(is_told).cloned().collect();
            assert_eq!(page.changes, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn who_applies_the_changes_behind_an_entry_has_the_content_of_now(
        steps in proptest::collection::vec(step(), 1..80),
        is_small: bool,
        limit in 1..5_usize,
    ) {
        let memory = if is_small { SMALL_MEMORY } else { StateMemory::TEST };
        let mut regions = TwoRegions::new(memory);
        // Content after the last entry of each batch.
        let mut history = BTreeMap::new();
        let mut begin = 0;
        for step in steps.into_iter().chain([Step::WriteBatch]) {
            let is_reload = matches!(step, Step::Reload);
            regions.take(step);
            let here = &regions.here;
            let last = here.written_index();
            if is_reload {
                begin = last;
            }
            let now = content_of(here);
            history.insert(last, now.clone());
            let view = here.view();
            let recent_changes = view.recent_changes();
            prop_assert_eq!(recent_changes.last_index(), last);
            prop_assert!(recent_changes.bytes() <= memory.recent_changes);
            prop_assert!(recent_changes.reaches_back_to(last));
            let mut is_checked = false;
            for (index, content) in &history {
                let Some(changes) = changes_after(here, *index, limit) else {
                    prop_assert!(is_small || *index < begin);
                    continue;
                };
                prop_assert!(*index >= begin);
                let mut known = content.clone();
                changes.iter().for_each(|change| follow(&mut known, change));
                prop_assert_eq!(&known, &now);
                if !is_checked {
                    check_versions(&changes);
                    check_filters(here, *index, &changes);
                    is_checked = true;
                }
            }
        }
    }
}
