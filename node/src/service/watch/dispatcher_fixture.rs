//! Fixture with a dispatcher, watchers, and a model of what each of them has to be told.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::sample::Index;

use super::*;
use crate::service::watch::reader::RingReader;
use crate::service::watch::ring::Taken;
use crate::service::watch::test_node::test_bucket;
use crate::service::watch::token::ResumeToken;
use crate::types::{PutDetails, Version};

pub(super) const SHARDS: u16 = 2;
pub(super) const HISTORY: RegionHistory = RegionHistory {
    region: 1,
    incarnation: 7,
};
pub(super) const BUCKETS: [&[u8; 14]; 2] = [b"aAAAAAAAAAAAAA", b"aBBBBBBBBBBBBB"];
pub(super) const KEYS: [&str; 6] = ["a", "ab", "abc", "b", "ba", "c"];
/// Enough for a few events.
pub(super) const SMALL_BOUNDS: BufferBounds = BufferBounds {
    bucket: 2500,
    total: 4000,
};
pub(super) const NO_BOUNDS: BufferBounds = BufferBounds {
    bucket: usize::MAX,
    total: usize::MAX,
};

pub(super) fn bucket_with(number: usize, access: Access) -> Bucket {
    test_bucket(BucketId::parse(BUCKETS[number]).unwrap(), access)
}

pub(super) fn bucket(number: usize) -> Bucket {
    bucket_with(number, Access::Public)
}

pub(super) fn key(number: usize) -> Bytes {
    Bytes::from_static(KEYS[number].as_bytes())
}

pub(super) fn filter(number: usize) -> KeyFilter {
    match number {
        0 => KeyFilter::Prefix(Bytes::new()),
        1 => KeyFilter::Prefix(key(0)),
        2 => KeyFilter::Prefix(key(3)),
        3 => KeyFilter::Key(key(1)),
        _ => KeyFilter::Key(key(3)),
    }
}

pub(super) fn shard_of_key(bucket: usize, key: &[u8]) -> u16 {
    shard_of(BUCKETS[bucket], key, SHARDS)
}

/// Watcher, and what it has to be told: shard, index and key of each event.
pub(super) struct TestWatcher {
    pub(super) reader: RingReader,
    bucket: usize,
    pub(super) filter: KeyFilter,
    expected: VecDeque<(u16, u64, Bytes)>,
    has_gap: bool,
}

pub(super) struct Fixture {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) run: u64,
    indexes: [u64; SHARDS as usize],
    pub(super) watchers: Vec<TestWatcher>,
    bounds: BufferBounds,
}

impl Fixture {
    pub(super) fn new(bounds: BufferBounds) -> Self {
        let dispatcher = Arc::new(Dispatcher::new(SHARDS, HISTORY, bounds));
        let run = dispatcher.begin_run().unwrap().number;
        for shard in 0..SHARDS {
            dispatcher.begin_shard(run, shard, 10);
        }
        Self {
            dispatcher,
            run,
            indexes: [10; SHARDS as usize],
            watchers: Vec::new(),
            bounds,
        }
    }

    pub(super) fn try_join(
        &self,
        number: usize,
        filter: &KeyFilter,
    ) -> Result<(RingReader, Vec<u64>), WatchEnd> {
        let bucket = bucket(number);
        let shards = match filter {
            KeyFilter::Key(key) => {
                let shard = shard_of_key(number, key);
                shard..shard + 1
            }
            KeyFilter::Prefix(_) => 0..SHARDS,
        };
        RingReader::join(&self.dispatcher, &bucket, filter, &shards)
    }

    pub(super) fn join(&mut self, bucket: usize, filter: KeyFilter) {
        let (reader, positions) = self.try_join(bucket, &filter).unwrap();
        assert_eq!(positions, self.indexes);
        self.watchers.push(TestWatcher {
            reader,
            bucket,
            filter,
            expected: VecDeque::new(),
            has_gap: false,
        });
    }

    /// Returns the next entry of the shard that has the first of these keys, with changes of those
    /// of them that it has.
    pub(super) fn next_page(&self, bucket: usize, keys: &[usize]) -> (u16, ChangesPage) {
        let shard = shard_of_key(bucket, &key(keys[0]));
        let index = self.indexes[usize::from(shard)] + 1;
        let keys = keys.iter().map(|number| key(*number));
        let changes = keys
            .filter(|key| shard_of_key(bucket, key) == shard)
            .map(|key| KeyChange {
                index,
                bucket: BucketId::parse(BUCKETS[bucket]).unwrap(),
                key,
                version: Version::default(),
                kind: KeyChangeKind::Put(PutDetails::default()),
            });
        let changes = changes.collect();
        let up_to = index;
        (shard, ChangesPage { changes, up_to })
    }

    pub(super) fn push(&mut self, bucket: usize, keys: &[usize]) {
        let (shard, page) = self.next_page(bucket, keys);
        self.indexes[usize::from(shard)] = page.up_to;
        for change in &page.changes {
            let watchers = self.watchers.iter_mut();
            for watcher in watchers.filter(|it| it.bucket == bucket && !it.has_gap) {
                if watcher.filter.matches(&change.key) {
                    let event = (shard, change.index, change.key.clone());
                    watcher.expected.push_back(event);
                }
            }
        }
        let outcome = self.dispatcher.apply(self.run, shard, Scope::All, page);
        assert_eq!(outcome, PageOutcome::Applied);
    }

    pub(super) fn skip(&mut self, shard: u16) {
        self.indexes[usize::from(shard)] += 5;
        let index = self.indexes[usize::from(shard)];
        self.dispatcher.skip_to(self.run, shard, index);
        for watcher in &mut self.watchers {
            let is_concerned = match &watcher.filter {
                KeyFilter::Key(key) => shard_of_key(watcher.bucket, key) == shard,
                KeyFilter::Prefix(_) => true,
            };
            if is_concerned {
                watcher.has_gap = true;
                watcher.expected.clear();
            }
        }
    }

    /// Lets a watcher take events, and removes it if it has lost its place.
    pub(super) fn take(&mut self, number: usize, max_bytes: usize) {
        let watcher = &mut self.watchers[number];
        let mut events = Vec::new();
        match watcher.reader.take(max_bytes, false, &mut events) {
            Taken::Events => {
                assert!(!watcher.has_gap);
                for event in events {
                    let (shard, index, key) = watcher.expected.pop_front().unwrap();
                    assert_eq!((event.change.index, &event.change.key), (index, &key));
                    assert_eq!(shard_of_key(watcher.bucket, &key), shard);
                    check_token(watcher, &event.token);
                }
            }
            Taken::Nothing => {
                assert!(!watcher.has_gap && watcher.expected.is_empty());
                assert_eq!(watcher.reader.positions(), Some(self.indexes.to_vec()));
            }
            Taken::Gap => {
                assert!(watcher.has_gap);
                self.watchers.swap_remove(number);
            }
            Taken::TooSlow => {
                assert!(!watcher.has_gap && !watcher.expected.is_empty());
                assert!(self.bounds.bucket < usize::MAX);
                self.watchers.swap_remove(number);
            }
            Taken::End(end) => panic!("{end}"),
        }
    }

    pub(super) fn check(&self) {
        let state = self.dispatcher.state.lock();
        let buffered: Vec<usize> = state
            .hubs
            .values()
            .map(|hub| hub.buffered.of_bucket())
            .collect();
        assert!(buffered.iter().all(|bytes| *bytes <= self.bounds.bucket));
        let total = self.dispatcher.buffered_bytes();
        assert!(total <= self.bounds.total);
        assert_eq!(total, buffered.iter().sum::<usize>());
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Push(bucket, keys) => self.push(*bucket, keys),
            Step::Join(bucket, number) => self.join(*bucket, filter(*number)),
            Step::Take(index, max_bytes) if !self.watchers.is_empty() => {
                self.take(index.index(self.watchers.len()), *max_bytes);
            }
            Step::Leave(index) if !self.watchers.is_empty() => {
                self.watchers.swap_remove(index.index(self.watchers.len()));
            }
            Step::Take(..) | Step::Leave(_) => {}
            Step::Skip(shard) => self.skip(*shard),
        }
        self.check();
    }

    /// Lets all watchers take all: nothing is left then.
    pub(super) fn finish(mut self) {
        for number in (0..self.watchers.len()).rev() {
            self.take(number, usize::MAX);
        }
        for watcher in &self.watchers {
            assert_eq!(watcher.reader.positions(), Some(self.indexes.to_vec()));
        }
        assert_eq!(self.dispatcher.buffered_bytes(), 0);
        self.watchers.clear();
        assert!(self.dispatcher.state.lock().hubs.is_empty());
    }
}

/// Checks that the token of the event that a watcher was told last isn't past any of those that it
/// has yet to be told.
pub(super) fn check_token(watcher: &TestWatcher, token: &str) {
    let id = BucketId::parse(BUCKETS[watcher.bucket]).unwrap();
    let token = ResumeToken::parse(token, &id).unwrap();
    let positions = token.positions_in(HISTORY, usize::from(SHARDS)).unwrap();
    for (shard, index, _) in &watcher.expected {
        assert!(positions[usize::from(*shard)] < *index);
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// An entry with changes of these keys of a bucket.
    Push(usize, Vec<usize>),
    /// A watcher of a bucket, with a filter.
    Join(usize, usize),
    /// A watcher takes about so many bytes.
    Take(Index, usize),
    Leave(Index),
    /// The changes of a shard are missing.
    Skip(u16),
}
