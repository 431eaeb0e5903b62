//! Makes the log of a shard with commands of every kind, for the recordings of `replay_tests`.
//!
//! The shard is that of a third region: it joins two others, is seeded, exchanges changes with
//! them, reconciles them when they are removed one after the other, is alone for a while, and gets
//! a peer again. All random choices have one seed.

use bytes::Bytes;
use cloudkv_proto::v1::{
    self as pb, condition::Kind as Condition, shard_command::Kind, touch::Expiry, write::Op,
};

use super::BulkCopyChunk;
use super::feature_level::MAX_FEATURE_LEVEL;
use super::reconcile_tests::{fence, reconciliations};
use super::test_region::TestRegion;

/// Buckets of all keys, of which the last one is dropped.
pub(super) const BUCKETS: [&[u8; 14]; 4] = [
    b"aAAAAAAAAAAAAA",
    b"aBBBBBBBBBBBBB",
    b"aCCCCCCCCCCCCC",
    b"aDDDDDDDDDDDDD",
];
/// Keys of each bucket.
const KEYS: usize = 25;
/// Place of the recorded region among the three.
const RECORDED: usize = 2;
/// Time at which all clocks start, and a second, in nanoseconds.
const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Returns the region whose shard has applied the log.
pub(super) fn recorded_region() -> TestRegion {
    let mut log = LogMaker::new();
    log.run(100, &[0, 1]);
    log.join();
    log.run(300, &[0, 1, 2]);
    log.drop_bucket();
    log.run(200, &[0, 1, 2]);
    log.remove(1, 3, &[0, 2]);
    log.run(120, &[0, 2]);
    log.remove(0, 4, &[2]);
    log.run(60, &[2]);
    let newcomer = pb::Peer {
        region: 4,
        incarnation: 9,
    };
    log.regions[RECORDED].set_peers(5, vec![newcomer]);
    log.run(30, &[2]);
    log.regions.swap_remove(RECORDED)
}

struct LogMaker {
    random: Random,
    regions: Vec<TestRegion>,
    /// Batches that the recorded region was sent.
    sent: Vec<pb::Merge>,
}

impl LogMaker {
    /// Starts the first two regions.
    fn new() -> Self {
        let mut maker = Self {
            random: Random(1),
            regions: Vec::new(),
            sent: Vec::new(),
        };
        maker.start_region(1, false);
        maker.start_region(2, false);
        maker.set_peers(1, &[0, 1]);
        maker
    }

    fn start_region(&mut self, number: u32, must_seed: bool) {
        let mut region = TestRegion::new(number, must_seed);
        region.clock = START + u64::from(number);
        self.regions.push(region);
    }

    fn set_peers(&mut self, epoch: u64, places: &[usize]) {
        let peers: Vec<pb::Peer> = places
            .iter()
            .map(|place| self.regions[*place].identity)
            .collect();
        for place in places {
            self.regions[*place].set_peers(epoch, peers.clone());
        }
    }

    /// Lets this many things happen in these regions, half of them in the recorded one.
    fn run(&mut self, steps: usize, places: &[usize]) {
        for _ in 0..steps {
            let is_recorded = places.contains(&RECORDED) && self.random.below(2) == 0;
            let place = if is_recorded {
                RECORDED
            } else {
                places[self.random.below(places.len())]
            };
            match self.random.below(16) {
                0..=6 => self.write(place),
                7 | 8 => self.expire(place),
                9..=12 => {
                    let from = places[self.random.below(places.len())];
                    self.send(from, place);
                }
                13 => self.redeliver(place),
                14 => self.regions[place].collect(),
                _ => self.count_reads(place),
            }
        }
    }

    fn write(&mut self, place: usize) {
        let count = 1 + self.random.below(4);
        let writes = (0..count).map(|_| self.random_write(place)).collect();
        let region = &mut self.regions[place];
        region.clock += 1 + self.random.draw() % SECOND;
        let time = region.clock;
        region.apply(Kind::Writes(pb::WriteBatch { time, writes }));
    }

    fn random_write(&mut self, place: usize) -> pb::Write {
        let bucket = BUCKETS[self.random.below(BUCKETS.len())];
        let key = format!("key-{}", self.random.below(KEYS));
        let now = self.regions[place].clock;
        let op = match self.random.below(8) {
            0 | 1 => Op::Delete(pb::Delete {}),
            2 => Op::Touch(self.random.touch(now)),
            _ => Op::Put(self.random.put(now)),
        };
        let condition = match self.random.below(8) {
            0 => Some(Condition::Exists(true)),
            1 => Some(Condition::Absent(true)),
            2 => Some(Condition::Versions(self.versions(place, bucket, &key))),
            3 => Some(Condition::NotVersions(self.versions(place, bucket, &key))),
            _ => None,
        };
        pb::Write {
            bucket: Bytes::from_static(bucket),
            key: Bytes::from(key),
            op: Some(op),
            condition: condition.map(|kind| pb::Condition { kind: Some(kind) }),
        }
    }

    /// Returns the version of a key, if it has one, and one that no key has.
    fn versions(&self, place: usize, bucket: &[u8], key: &str) -> pb::Versions {
        let state = &self.regions[place].state;
        let row = state.rows.record(bucket, key.as_bytes());
        let stored = state
            .record(&row)
            .unwrap()
            .and_then(|record| record.version);
        let unknown = pb::Version { time: 1, region: 1 };
        pb::Versions {
            any: stored.into_iter().chain([unknown]).collect(),
        }
    }

    fn expire(&mut self, place: usize) {
        let region = &mut self.regions[place];
        region.clock += SECOND * (1 + self.random.draw() % 60);
        let (time, limit) = (region.clock, 1 + self.random.below(20) as u32);
        region.apply(Kind::Expire(pb::ExpireUpTo { time, limit }));
    }

    /// Sends some of the changes that a region lacks.
    fn send(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let (origin, target) = (self.regions[from].identity, self.regions[to].identity);
        let cursor = self.regions[to].peer(origin.region).cursor;
        let records = 1 + self.random.below(8);
        let batches = self.regions[from].batches(target.region, cursor, records);
        let count = 1 + self.random.below(3);
        for batch in batches.into_iter().take(count) {
            let reached = self.regions[to].merge(batch.clone());
            if self.random.below(4) != 0 {
                self.regions[from].acknowledge(target, reached);
            }
            if to == RECORDED {
                self.sent.push(batch);
            }
        }
    }

    /// Delivers an old batch again, and the same from another history of its region.
    fn redeliver(&mut self, place: usize) {
        if place != RECORDED || self.sent.is_empty() {
            return;
        }
        let old = self.sent[self.random.below(self.sent.len())].clone();
        let other = pb::Merge {
            incarnation: 1,
            ..old.clone()
        };
        let region = &mut self.regions[place];
        let (time, merges) = (region.clock, vec![old, other]);
        region.apply(Kind::Merges(pb::Merges { time, merges }));
    }

    fn count_reads(&mut self, place: usize) {
        let count = pb::ReadCount {
            bucket: Bytes::from_static(BUCKETS[self.random.below(BUCKETS.len())]),
            hits: self.random.draw() % 100,
            misses: self.random.draw() % 10,
        };
        let counts = vec![count];
        self.regions[place].apply(Kind::CountReads(pb::CountReads { counts }));
    }

    /// Starts the recorded region, and seeds it from the first one.
    fn join(&mut self) {
        let last_versions = self
            .regions
            .iter()
            .map(|region| region.state.header.last_version);
        let last_version = last_versions.max().unwrap();
        self.start_region(3, true);
        self.set_peers(2, &[0, 1, RECORDED]);
        let mut chunks = Vec::new();
        let copied = self.regions[0].view().bulk_copy(|chunk| {
            chunks.push(chunk);
            Ok(())
        });
        copied.unwrap();
        let region = &mut self.regions[RECORDED];
        let mut end = None;
        for chunk in chunks {
            match chunk {
                BulkCopyChunk::Header(position) => end = Some(position),
                BulkCopyChunk::Records(chunk) => {
                    region.apply(Kind::Seed(chunk));
                }
            }
        }
        let mut end = end.unwrap();
        end.last_version = end.last_version.max(last_version);
        region.apply(Kind::Seed(pb::SeedChunk {
            end: Some(end),
            ..Default::default()
        }));
        assert!(region.view().is_open());
        let level = MAX_FEATURE_LEVEL;
        region.apply(Kind::SetLevel(pb::SetLevel { level }));
    }

    fn drop_bucket(&mut self) {
        for region in &mut self.regions {
            let bucket = Bytes::from_static(BUCKETS[BUCKETS.len() - 1]);
            region.apply(Kind::DropBucket(pb::DropBucket { bucket }));
        }
    }

    /// Removes a region, in a round of the number of the epoch.
    fn remove(&mut self, removed: usize, epoch: u64, staying: &[usize]) {
        let origin = self.regions[removed].identity;
        let early = reconciliations(&self.regions[removed], origin);
        for message in early.into_iter().take(1) {
            // Not fenced yet: it changes nothing.
            self.regions[RECORDED].apply(Kind::Reconcile(message));
        }
        for place in staying {
            fence(&mut self.regions[*place], origin, 0);
        }
        for from in staying {
            for to in staying.iter().filter(|to| *to != from) {
                for message in reconciliations(&self.regions[*from], origin) {
                    self.regions[*to].apply(Kind::Reconcile(message));
                }
            }
        }
        for place in staying {
            fence(&mut self.regions[*place], origin, epoch);
        }
        self.set_peers(epoch, staying);
    }
}

/// Random numbers that are the same with every run (SplitMix64).
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    fn put(&mut self, now: u64) -> pb::Put {
        let size = self.below(60);
        let value: Vec<u8> = (0..size).map(|_| self.below(256) as u8).collect();
        let content_type: &[u8] = match self.below(2) {
            0 => b"",
            _ => b"text/plain",
        };
        let (ttl, expires_at) = match self.below(6) {
            0 | 1 => (SECOND * (1 + self.draw() % 600), 0),
            2 => (0, now + SECOND * (self.draw() % 600)),
            _ => (0, 0),
        };
        pb::Put {
            value: Bytes::from(value),
            content_type: Bytes::from_static(content_type),
            ttl,
            may_create: self.below(8) != 0,
            expires_at,
            metadata: self.metadata(),
        }
    }

    fn touch(&mut self, now: u64) -> pb::Touch {
        let expiry = match self.below(4) {
            0 => None,
            1 => Some(Expiry::Ttl(SECOND * (1 + self.draw() % 600))),
            2 => Some(Expiry::ExpiresAt(now + SECOND * (self.draw() % 600))),
            _ => Some(Expiry::Persist(true)),
        };
        let metadata = (self.below(2) == 0).then(|| self.metadata());
        pb::Touch { expiry, metadata }
    }

    fn metadata(&mut self) -> Bytes {
        match self.below(3) {
            0 => Bytes::from(format!("{{\"n\":{}}}", self.below(1000))),
            _ => Bytes::new(),
        }
    }
}
