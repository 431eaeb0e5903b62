//! Whole shards of two and three regions, without any network: what each sends is fed to the others
//! split, repeated, late and in any order, and in the end all hold the newest version ever written
//! of each key, count the same, and give back what they held for each other.

use std::collections::BTreeMap;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};
use proptest::prelude::*;

use super::state::{Response, ShardState};
use super::view::View;
use crate::raft::State;
use crate::store::keys::{GroupId, Rows};
use crate::store::{Batch, Engine, EngineSettings};
use crate::types::{ListQuery, Version};

const BUCKET: &[u8; 14] = b"aAAAAAAAAAAAAA";
const REGIONS: u32 = 3;

/// The shard of one region.
struct Region {
    state: ShardState,
    engine: Engine,
    me: pb::Peer,
    clock: u64,
    _dir: tempfile::TempDir,
}

impl Region {
    fn new(number: u32, adopts: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            block_cache: 1 << 20,
            write_buffer: 1 << 20,
            log_segment: 1 << 20,
        };
        let engine = Engine::open(dir.path(), &settings).unwrap();
        let rows = Rows::new(GroupId::shard(0), 1);
        let state = ShardState::open(engine.state.clone(), rows).unwrap();
        let me = pb::Peer {
            region: number,
            incarnation: 100 + u64::from(number),
        };
        let mut region = Self {
            state,
            engine,
            me,
            // Clocks that are apart, and move at their own pace.
            clock: u64::from(number) * 7,
            _dir: dir,
        };
        region.apply(Kind::Found(pb::Found {
            region: number,
            incarnation: me.incarnation,
            level: 2,
            adopts,
        }));
        region
    }

    fn apply(&mut self, kind: Kind) -> Response {
        let command = pb::ShardCommand { kind: Some(kind) };
        let mut batch = Batch::default();
        let response = self.state.apply(&command, &mut batch).unwrap();
        self.state.seal(&mut batch);
        self.engine.state.write(batch).unwrap();
        self.state.written();
        response
    }

    fn set_peers(&mut self, epoch: u64, peers: Vec<pb::Peer>) {
        let me = self.me.region;
        let peers = peers.into_iter().filter(|peer| peer.region != me).collect();
        self.apply(Kind::SetPeers(pb::SetPeers {
            epoch,
            peers,
            ..Default::default()
        }));
    }

    fn write(&mut self, key: u8, op: Op) {
        let writes = vec![pb::Write {
            bucket: Bytes::from_static(BUCKET),
            key: Bytes::from(vec![b'k', key]),
            op: Some(op),
            condition: None,
        }];
        let time = self.clock;
        self.apply(Kind::Writes(pb::WriteBatch { time, writes }));
    }

    fn put(&mut self, key: u8, value: &str, ttl: u64) {
        self.write(
            key,
            Op::Put(pb::Put {
                value: Bytes::copy_from_slice(value.as_bytes()),
                ttl,
                may_create: true,
                ..Default::default()
            }),
        );
    }

    fn view(&self) -> std::sync::Arc<View> {
        self.state.view()
    }

    fn peer(&self, region: u32) -> pb::PeerState {
        let mut peers = self.state.header.peers.iter();
        *peers.find(|peer| peer.region == region).unwrap()
    }

    /// What it sends after a position, in parts of at most so many records.
    fn parts(&self, from: u64, records: usize) -> Vec<pb::Merge> {
        let whole = self.view().changes_after(from).unwrap().merge;
        let stable = self.state.acknowledged_by_all();
        let mut parts = Vec::new();
        let mut rest = whole.records.clone();
        let mut at = from;
        while rest.len() > records {
            let later = rest.split_off(records);
            let position = |record: &pb::KeyRecord| record.record.as_ref().unwrap().source;
            let to = position(rest.last().unwrap());
            parts.push(pb::Merge {
                from: at,
                to,
                watermark: 0,
                stable,
                records: rest,
                ..whole.clone()
            });
            at = to;
            rest = later;
        }
        parts.push(pb::Merge {
            from: at,
            records: rest,
            stable,
            ..whole
        });
        parts
    }

    fn merge(&mut self, merge: pb::Merge) -> u64 {
        let time = self.clock;
        let merges = vec![merge];
        match self.apply(Kind::Merges(pb::Merges { time, merges })) {
            Response::Merges(outcomes) => {
                assert!(outcomes[0].known);
                outcomes[0].cursor
            }
            other => panic!("{other:?}"),
        }
    }

    fn acknowledged(&mut self, peer: pb::Peer, position: u64) {
        let peers = vec![pb::PeerPosition {
            region: peer.region,
            incarnation: peer.incarnation,
            position,
        }];
        self.apply(Kind::Acknowledge(pb::Acknowledge { peers }));
    }

    fn expire(&mut self, time: u64) {
        self.apply(Kind::Expire(pb::ExpireUpTo { time, limit: 1000 }));
    }

    fn collect(&mut self) {
        let tombstones = self.view().collectable(1000).unwrap();
        self.apply(Kind::Collect(pb::Collect { tombstones }));
    }

    /// Live keys with version and value.
    fn all(&self) -> BTreeMap<Bytes, (Version, Bytes)> {
        let view = self.view();
        let query = ListQuery {
            prefix: Bytes::new(),
            after: None,
            limit: 1000,
        };
        let keys = view.page(BUCKET, &query, 0).unwrap().keys.into_iter();
        keys.map(|info| {
            let entry = view.get(BUCKET, &info.key, 0).unwrap().unwrap();
            (info.key, (info.version, entry.value))
        })
        .collect()
    }
}

fn regions(count: u32) -> Vec<Region> {
    let mut regions: Vec<_> = (1..=count)
        .map(|number| Region::new(number, false))
        .collect();
    let peers: Vec<_> = regions.iter().map(|region| region.me).collect();
    for region in &mut regions {
        region.set_peers(1, peers.clone());
    }
    regions
}

/// Everybody sends all that others lack, and hears how far they are.
fn exchange(regions: &mut [Region]) {
    for _ in 0..4 {
        for from in 0..regions.len() {
            for to in 0..regions.len() {
                if from == to {
                    continue;
                }
                let origin = regions[from].me;
                let cursor = regions[to].peer(origin.region).cursor;
                for part in regions[from].parts(cursor, 3) {
                    let cursor = regions[to].merge(part);
                    let peer = regions[to].me;
                    regions[from].acknowledged(peer, cursor);
                }
            }
        }
        regions.iter_mut().for_each(Region::collect);
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
    /// A clock moves, and what has expired by then goes.
    Time {
        region: usize,
        by: u64,
    },
    /// Parts of one region reach another: all, the first few, or only the last; some of them twice.
    Send {
        from: usize,
        to: usize,
        records: usize,
        first: usize,
        twice: bool,
        told: bool,
    },
    /// What was sent long ago comes once more.
    Late {
        at: usize,
    },
    Collect {
        region: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let region = || 0..REGIONS as usize;
    prop_oneof![
        6 => (region(), 0..4_u8, prop_oneof![3 => Just(0_u64), 1 => 1..60_u64])
            .prop_map(|(region, key, ttl)| Step::Put { region, key, ttl }),
        3 => (region(), 0..4_u8).prop_map(|(region, key)| Step::Delete { region, key }),
        3 => (region(), 1..40_u64).prop_map(|(region, by)| Step::Time { region, by }),
        8 => (region(), region(), 1..4_usize, 0..4_usize, any::<bool>(), any::<bool>()).prop_map(
            |(from, to, records, first, twice, told)| Step::Send { from, to, records, first, twice, told }
        ),
        4 => (0..100_usize).prop_map(|at| Step::Late { at }),
        3 => region().prop_map(|region| Step::Collect { region }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn regions_agree_on_the_newest_version_whatever_comes_when(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut regions = regions(REGIONS);
        let mut newest: BTreeMap<u8, (Version, bool)> = BTreeMap::new();
        let mut sent: Vec<(usize, pb::Merge)> = Vec::new();
        let mut count = 0;
        for step in steps {
            match step {
                Step::Put { region, key, ttl } => {
                    count += 1;
                    regions[region].put(key, &format!("{count}"), ttl);
                    note(&mut newest, &regions[region], key, true);
                }
                Step::Delete { region, key } => {
                    regions[region].write(key, Op::Delete(pb::Delete {}));
                    note(&mut newest, &regions[region], key, false);
                }
                Step::Time { region, by } => {
                    regions[region].clock += by;
                    let now = regions[region].clock;
                    regions[region].expire(now);
                }
                Step::Send { from, to, records, first, twice, told } if from != to => {
                    let origin = regions[from].me;
                    let cursor = regions[to].peer(origin.region).cursor;
                    let parts = regions[from].parts(cursor, records);
                    for part in parts.into_iter().skip(first.saturating_sub(2)).take(first.max(1)) {
                        let reached = regions[to].merge(part.clone());
                        if twice {
                            regions[to].merge(part.clone());
                        }
                        if told {
                            let peer = regions[to].me;
                            regions[from].acknowledged(peer, reached);
                        }
                        sent.push((to, part));
                    }
                }
                Step::Send { .. } => {}
                Step::Late { at } => {
                    if let Some((to, part)) = sent.get(at % sent.len().max(1)).cloned() {
                        regions[to].merge(part);
                    }
                }
                Step::Collect { region } => regions[region].collect(),
            }
        }
        exchange(&mut regions);
        let end = regions.iter().map(|region| region.clock).max().unwrap() + 1000;
        for region in &mut regions {
            region.expire(end);
        }
        exchange(&mut regions);
        let first = regions[0].all();
        for region in &regions {
            prop_assert_eq!(region.all(), first.clone());
            let state = region.view().bucket(BUCKET).unwrap();
            prop_assert_eq!(state.keys, first.len() as u64);
            prop_assert_eq!(state.digest, regions[0].view().bucket(BUCKET).unwrap().digest);
            // All that was held for others has come back.
            let header = &region.state.header;
            prop_assert_eq!((header.held_changes, header.held_bytes), (0, 0));
            prop_assert!(region.view().collectable(10).unwrap().is_empty());
        }
        for (key, (version, put)) in newest {
            if let Some((found, _)) = first.get(&[b'k', key][..]) {
                prop_assert_eq!(*found, version);
                prop_assert!(put);
            }
        }
    }
}

/// Notes the version of a write that was just made.
fn note(newest: &mut BTreeMap<u8, (Version, bool)>, region: &Region, key: u8, put: bool) {
    let version = Version {
        time: region.state.header.last_version,
        region: region.me.region,
    };
    let newer = newest.get(&key).is_none_or(|(known, _)| version > *known);
    if newer {
        newest.insert(key, (version, put));
    }
}

#[test]
fn a_region_that_joins_takes_over_all_and_goes_on_from_there() {
    let mut regions = regions(2);
    regions[0].put(1, "one", 0);
    regions[0].put(2, "gone", 0);
    regions[1].put(3, "three", 0);
    exchange(&mut regions);
    regions[1].write(2, Op::Delete(pb::Delete {}));
    regions.push(Region::new(3, true));
    let peers: Vec<_> = regions.iter().map(|region| region.me).collect();
    for region in &mut regions {
        region.set_peers(2, peers.clone());
    }
    let asked = regions[..2]
        .iter()
        .map(|region| region.state.header.last_version);
    let last_version = asked.max().unwrap();
    let mut parts = Vec::new();
    let walked = regions[0].view().walk(|part| {
        parts.push(part);
        Ok(())
    });
    walked.unwrap();
    // Written after the walk's view: it comes by its stream.
    regions[0].put(4, "four", 0);
    assert!(!regions[2].view().is_open());
    let mut end = None;
    for part in parts {
        match part {
            super::WalkPart::Head(head) => end = Some(head),
            super::WalkPart::Part(part) => {
                regions[2].apply(Kind::Adopt(part));
            }
        }
    }
    let mut end = end.unwrap();
    end.last_version = end.last_version.max(last_version);
    regions[2].apply(Kind::Adopt(pb::Adopt {
        end: Some(end),
        ..Default::default()
    }));
    assert!(regions[2].view().is_open());
    regions[2].put(5, "five", 0);
    exchange(&mut regions);
    let first = regions[0].all();
    let keys: Vec<_> = first.keys().map(|key| key[1]).collect();
    assert_eq!(keys, [1, 3, 4, 5]);
    for region in &regions {
        assert_eq!(region.all(), first);
        assert_eq!(region.state.header.held_changes, 0);
    }
}

#[test]
fn a_merge_of_another_history_or_beyond_the_cursor_changes_nothing() {
    let mut regions = regions(2);
    for key in 0..5 {
        regions[0].put(key, "v", 0);
    }
    let parts = regions[0].parts(0, 2);
    assert_eq!(parts.len(), 3);
    assert_eq!(regions[1].merge(parts[1].clone()), 0);
    assert!(regions[1].all().is_empty());
    let other = pb::Merge {
        incarnation: 1,
        ..parts[0].clone()
    };
    let merges = vec![other];
    let Response::Merges(outcomes) = regions[1].apply(Kind::Merges(pb::Merges { time: 0, merges }))
    else {
        panic!("a merge answers with outcomes");
    };
    assert!(!outcomes[0].known);
    for part in &parts {
        regions[1].merge(part.clone());
    }
    assert_eq!(regions[1].all(), regions[0].all());
}

#[test]
fn writes_to_a_dropped_bucket_do_not_come_back() {
    let mut regions = regions(2);
    regions[0].put(1, "old", 0);
    exchange(&mut regions);
    regions[0].put(2, "cut off", 0);
    let bucket = Bytes::from_static(BUCKET);
    regions[1].apply(Kind::DropBucket(pb::DropBucket {
        bucket: bucket.clone(),
    }));
    exchange(&mut regions);
    assert!(regions[1].all().is_empty());
    regions[0].apply(Kind::DropBucket(pb::DropBucket { bucket }));
    exchange(&mut regions);
    for region in &regions {
        assert!(region.all().is_empty());
        assert_eq!(region.state.header.held_changes, 0);
        assert_eq!(region.state.header.digest, 0);
    }
}
