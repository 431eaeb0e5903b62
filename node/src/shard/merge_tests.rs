//! Tests with whole shards of two and three regions, without any network: the changes of each are
//! fed to the others split, repeated, late and in any order, and in the end all hold the newest
//! version ever written of each key, count the same, and release what they retained.

use std::collections::BTreeMap;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};
use proptest::prelude::*;

use super::response::ShardResponse;
use super::test_region::{BUCKET, TestRegion};
use crate::types::Version;

const REGIONS: u32 = 3;
const KEYS: u8 = 4;

fn regions(count: u32) -> Vec<TestRegion> {
    let mut regions: Vec<_> = (1..=count)
        .map(|number| TestRegion::new(number, false))
        .collect();
    let peers: Vec<_> = regions.iter().map(|region| region.identity).collect();
    for region in &mut regions {
        region.set_peers(1, peers.clone());
    }
    regions
}

/// Sends all missing changes from each region to each other one, with acknowledgements.
fn exchange(regions: &mut [TestRegion]) {
    for _ in 0..4 {
        for from in 0..regions.len() {
            for to in 0..regions.len() {
                if from == to {
                    continue;
                }
                let origin = regions[from].identity;
                let cursor = regions[to].peer(origin.region).cursor;
                let peer = regions[to].identity.region;
                for batch in regions[from].batches(peer, cursor, 3) {
                    let cursor = regions[to].merge(batch);
                    let peer = regions[to].identity;
                    regions[from].acknowledge(peer, cursor);
                }
            }
        }
        regions.iter_mut().for_each(TestRegion::collect);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        region: usize,
        key: u8,
        ttl: u64,
    },
    Delete {
        region: usize,
        key: u8,
    },
    /// A clock advances, and expired keys are removed.
    AdvanceClock {
        region: usize,
        by: u64,
    },
    /// Batches of one region reach another: all, the first few, or only the last; some twice.
    Send {
        from: usize,
        to: usize,
        records: usize,
        first: usize,
        twice: bool,
        acknowledged: bool,
    },
    /// An old batch is delivered once more.
    Redeliver {
        at: usize,
    },
    Collect {
        region: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let region = || 0..REGIONS as usize;
    prop_oneof![
        6 => (region(), 0..KEYS, prop_oneof![3 => Just(0_u64), 1 => 1..60_u64])
            .prop_map(|(region, key, ttl)| Step::Put { region, key, ttl }),
        3 => (region(), 0..KEYS).prop_map(|(region, key)| Step::Delete { region, key }),
        3 => (region(), 1..40_u64).prop_map(|(region, by)| Step::AdvanceClock { region, by }),
        8 => (region(), region(), 1..4_usize, 0..4_usize, any::<bool>(), any::<bool>()).prop_map(
            |(from, to, records, first, twice, acknowledged)| {
                Step::Send { from, to, records, first, twice, acknowledged }
            }
        ),
        4 => (0..100_usize).prop_map(|at| Step::Redeliver { at }),
        3 => region().prop_map(|region| Step::Collect { region }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn regions_converge_on_the_newest_version_in_any_order_of_delivery(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut regions = regions(REGIONS);
        let mut seen = Observed::default();
        let mut sent: Vec<(usize, pb::Merge)> = Vec::new();
        let mut count = 0;
        for step in steps {
            match step {
                Step::Put { region, key, ttl } => {
                    count += 1;
                    regions[region].put(key, &format!("{count}"), ttl);
                    seen.record_write(&regions[region], key, ttl == 0);
                }
                Step::Delete { region, key } => {
                    regions[region].write(key, Op::Delete(pb::Delete {}));
                    seen.record_write(&regions[region], key, false);
                }
                Step::AdvanceClock { region, by } => {
                    regions[region].clock += by;
                    let now = regions[region].clock;
                    regions[region].expire(now);
                }
                Step::Send { from, to, records, first, twice, acknowledged } if from != to => {
                    let origin = regions[from].identity;
                    let cursor = regions[to].peer(origin.region).cursor;
                    let peer = regions[to].identity.region;
                    let batches = regions[from].batches(peer, cursor, records);
                    let batches = batches.into_iter().skip(first.saturating_sub(2));
                    for batch in batches.take(first.max(1)) {
                        let reached = regions[to].merge(batch.clone());
                        if twice {
                            regions[to].merge(batch.clone());
                        }
                        if acknowledged {
                            let peer = regions[to].identity;
                            regions[from].acknowledge(peer, reached);
                        }
                        sent.push((to, batch));
                    }
                }
                Step::Send { .. } => {}
                Step::Redeliver { at } => {
                    if let Some((to, batch)) = sent.get(at % sent.len().max(1)).cloned() {
                        regions[to].merge(batch);
                    }
                }
                Step::Collect { region } => regions[region].collect(),
            }
            seen.observe(&regions);
            prop_assert_eq!(seen.false_watermark(&regions), None);
        }
        exchange(&mut regions);
        let end = regions.iter().map(|region| region.clock).max().unwrap() + 1000;
        for region in &mut regions {
            region.expire(end);
        }
        exchange(&mut regions);
        let first = regions[0].live_entries();
        for region in &regions {
            prop_assert_eq!(region.live_entries(), first.clone());
            let state = region.view().bucket(BUCKET).unwrap();
            prop_assert_eq!(state.keys, first.len() as u64);
            prop_assert_eq!(state.digest, regions[0].view().bucket(BUCKET).unwrap().digest);
            // Everything retained for others was released.
            let header = &region.state.header;
            prop_assert_eq!((header.retained_changes, header.retained_bytes), (0, 0));
            prop_assert!(region.view().collectable_tombstones(10).unwrap().is_empty());
        }
        for (key, (version, stays)) in seen.newest {
            let read = first.get(&[b'k', key][..]).map(|(version, _)| *version);
            prop_assert_eq!(read, stays.then_some(version));
        }
    }
}

/// Writes made so far, and the newest version that each region has had of each key.
#[derive(Default)]
struct Observed {
    /// Newest version of each key, and whether it stays: no delete, no time to live.
    newest: BTreeMap<u8, (Version, bool)>,
    writes: Vec<(u8, Version)>,
    had: BTreeMap<(u32, u8), Version>,
}

impl Observed {
    /// Records a write that was just made.
    fn record_write(&mut self, region: &TestRegion, key: u8, stays: bool) {
        let version = region.version(key).unwrap();
        assert_eq!(version.region, region.identity.region);
        self.writes.push((key, version));
        let newer = self
            .newest
            .get(&key)
            .is_none_or(|(known, _)| version > *known);
        if newer {
            self.newest.insert(key, (version, stays));
        }
    }

    fn observe(&mut self, regions: &[TestRegion]) {
        for region in regions {
            for key in 0..KEYS {
                if let Some(version) = region.version(key) {
                    let had = self.had.entry((region.identity.region, key)).or_default();
                    *had = version.max(*had);
                }
            }
        }
    }

    /// Returns a write at or below a watermark that its region has announced, of which the other
    /// region has had neither the write nor a later one.
    fn false_watermark(&self, regions: &[TestRegion]) -> Option<(u32, u8, Version)> {
        let announced = regions.iter().flat_map(|region| {
            let peers = region.state.header.peers.iter();
            peers.map(|peer| (region.identity.region, *peer))
        });
        let covered = announced.flat_map(|(here, peer)| {
            let covered_writes = self.writes.iter().filter(move |(_, version)| {
                version.region == peer.region && version.time <= peer.watermark
            });
            covered_writes.map(move |(key, version)| (here, *key, *version))
        });
        let mut covered = covered;
        covered.find(|(here, key, version)| {
            let had = self.had.get(&(*here, *key));
            had.is_none_or(|had| had < version)
        })
    }
}

#[test]
fn a_joining_region_is_seeded_and_catches_up_from_there() {
    let mut regions = regions(2);
    regions[0].put(1, "one", 0);
    regions[0].put(2, "gone", 0);
    regions[1].put(3, "three", 0);
    exchange(&mut regions);
    regions[1].write(2, Op::Delete(pb::Delete {}));
    regions.push(TestRegion::new(3, true));
    let peers: Vec<_> = regions.iter().map(|region| region.identity).collect();
    for region in &mut regions {
        region.set_peers(2, peers.clone());
    }
    let last_versions = regions[..2]
        .iter()
        .map(|region| region.state.header.last_version);
    let last_version = last_versions.max().unwrap();
    let mut chunks = Vec::new();
    let result = regions[0].view().bulk_copy(|chunk| {
        chunks.push(chunk);
        Ok(())
    });
    result.unwrap();
    // Written after the bulk copy's view: it arrives by the change stream.
    regions[0].put(4, "four", 0);
    assert!(!regions[2].view().is_open());
    let mut end = None;
    for chunk in chunks {
        match chunk {
            super::BulkCopyChunk::Header(header) => end = Some(header),
            super::BulkCopyChunk::Records(chunk) => {
                regions[2].apply(Kind::Seed(chunk));
            }
        }
    }
    let mut end = end.unwrap();
    end.last_version = end.last_version.max(last_version);
    regions[2].apply(Kind::Seed(pb::SeedChunk {
        end: Some(end),
        ..Default::default()
    }));
    assert!(regions[2].view().is_open());
    regions[2].put(5, "five", 0);
    exchange(&mut regions);
    let first = regions[0].live_entries();
    let keys: Vec<_> = first.keys().map(|key| key[1]).collect();
    assert_eq!(keys, [1, 3, 4, 5]);
    for region in &regions {
        assert_eq!(region.live_entries(), first);
        assert_eq!(region.state.header.retained_changes, 0);
    }
}

#[test]
fn a_merge_of_another_history_or_beyond_the_cursor_changes_nothing() {
    let mut regions = regions(2);
    for key in 0..5 {
        regions[0].put(key, "v", 0);
    }
    let batches = regions[0].batches(2, 0, 2);
    assert_eq!(batches.len(), 3);
    assert_eq!(regions[1].merge(batches[1].clone()), 0);
    assert!(regions[1].live_entries().is_empty());
    let other = pb::Merge {
        incarnation: 1,
        ..batches[0].clone()
    };
    let merges = vec![other];
    let ShardResponse::Merges(outcomes) =
        regions[1].apply(Kind::Merges(pb::Merges { time: 0, merges }))
    else {
        panic!("a merge answers with outcomes");
    };
    assert!(!outcomes[0].is_known);
    for batch in &batches {
        regions[1].merge(batch.clone());
    }
    assert_eq!(regions[1].live_entries(), regions[0].live_entries());
}

#[test]
fn writes_to_a_dropped_bucket_do_not_reappear() {
    let mut regions = regions(2);
    regions[0].put(1, "old", 0);
    exchange(&mut regions);
    regions[0].put(2, "cut off", 0);
    let bucket = Bytes::from_static(BUCKET);
    regions[1].apply(Kind::DropBucket(pb::DropBucket {
        bucket: bucket.clone(),
    }));
    exchange(&mut regions);
    assert!(regions[1].live_entries().is_empty());
    regions[0].apply(Kind::DropBucket(pb::DropBucket { bucket }));
    exchange(&mut regions);
    for region in &regions {
        assert!(region.live_entries().is_empty());
        assert_eq!(region.state.header.retained_changes, 0);
        assert_eq!(region.state.header.digest, 0);
    }
}
