//! Tests of lost regions whose changes have reached the others unevenly: whatever arrives late,
//! twice or never, the survivors converge on the same content, and release what they retained.

use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};
use proptest::prelude::*;

use super::BulkCopyChunk;
use super::response::ShardResponse;
use super::test_region::{BUCKET, TestRegion};

const KEYS: u8 = 4;

/// Creates regions, of which the first two survive.
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

fn send(regions: &mut [TestRegion], from: usize, to: usize, batches: usize) {
    let origin = regions[from].identity;
    let cursor = regions[to].peer(origin.region).cursor;
    let peer = regions[to].identity;
    for batch in regions[from]
        .batches(peer.region, cursor, 1)
        .into_iter()
        .take(batches)
    {
        let reached = regions[to].merge(batch);
        regions[from].acknowledge(peer, reached);
    }
}

pub(super) fn fence(region: &mut TestRegion, lost: pb::Peer, round: u64) {
    let peers = vec![lost];
    region.apply(Kind::Fence(pb::Fence {
        peers,
        reconciled_round: round,
    }));
}

/// Returns what a region has of a lost one, in the form that it is forwarded in.
pub(super) fn reconciliations(region: &TestRegion, lost: pb::Peer) -> Vec<pb::Reconcile> {
    let mut messages = Vec::new();
    let result = region.view().bulk_copy(|chunk| {
        if let BulkCopyChunk::Records(chunk) = chunk {
            let is_of_lost = |record: &pb::KeyRecord| {
                let version = record.record.as_ref().and_then(|record| record.version);
                version.is_some_and(|version| version.region == lost.region)
            };
            messages.push(pb::Reconcile {
                time: region.clock,
                origin: Some(lost),
                records: chunk.records.into_iter().filter(is_of_lost).collect(),
            });
        }
        Ok(())
    });
    result.unwrap();
    messages
}

fn reconcile(region: &mut TestRegion, message: &pb::Reconcile) -> bool {
    match region.apply(Kind::Reconcile(message.clone())) {
        ShardResponse::Reconciled { is_applied: taken } => taken,
        other => panic!("{other:?}"),
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
    Send {
        from: usize,
        to: usize,
        batches: usize,
    },
    Collect {
        region: usize,
    },
    AdvanceClock {
        region: usize,
        by: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let region = || 0..4_usize;
    prop_oneof![
        6 => (region(), 0..KEYS, prop_oneof![3 => Just(0_u64), 1 => 1..60_u64])
            .prop_map(|(region, key, ttl)| Step::Put { region, key, ttl }),
        3 => (region(), 0..KEYS).prop_map(|(region, key)| Step::Delete { region, key }),
        8 => (region(), region(), 1..4_usize)
            .prop_map(|(from, to, parts)| Step::Send { from, to, batches: parts }),
        3 => region().prop_map(|region| Step::Collect { region }),
        2 => (region(), 1..40_u64).prop_map(|(region, by)| Step::AdvanceClock { region, by }),
    ]
}

fn run_steps(regions: &mut [TestRegion], steps: Vec<Step>, alive: usize) {
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put { region, key, ttl } if region < alive => {
                regions[region].put(key, &format!("{number}"), ttl);
            }
            Step::Delete { region, key } if region < alive => {
                regions[region].write(key, Op::Delete(pb::Delete {}));
            }
            Step::Send {
                from,
                to,
                batches: parts,
            } if from < alive && to < alive && from != to => {
                send(regions, from, to, parts);
            }
            Step::Collect { region } if region < alive => regions[region].collect(),
            Step::AdvanceClock { region, by } if region < alive => {
                regions[region].clock += by;
                let now = regions[region].clock;
                regions[region].expire(now);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn survivors_converge_on_what_a_lost_region_had_sent_to_any_of_them(
        before in proptest::collection::vec(step(), 1..60),
        meanwhile in proptest::collection::vec(step(), 0..20),
        after in proptest::collection::vec(step(), 0..20),
        late in any::<bool>(),
        losses in 1..=2_usize,
    ) {
        let mut regions = regions(2 + u32::try_from(losses).unwrap());
        run_steps(&mut regions, before, 2 + losses);
        let lost: Vec<_> = regions[2..].iter().map(|region| region.identity).collect();
        // Newest version of each key that any survivor has by now.
        let newest: Vec<_> = (0..KEYS)
            .map(|key| regions[0].version(key).max(regions[1].version(key)))
            .collect();
        let in_flight: Vec<_> = regions[2..].iter().flat_map(|it| it.batches(1, 0, 10)).collect();
        for lost in &lost {
            fence(&mut regions[0], *lost, 0);
            fence(&mut regions[1], *lost, 0);
        }
        run_steps(&mut regions, meanwhile, 2);
        let all_messages = |region: &TestRegion| -> Vec<_> {
            lost.iter().flat_map(|lost| reconciliations(region, *lost)).collect()
        };
        for (from, to) in [(0, 1), (1, 0)] {
            for message in all_messages(&regions[from]) {
                prop_assert!(reconcile(&mut regions[to], &message));
                if late {
                    prop_assert!(reconcile(&mut regions[to], &message));
                }
            }
            for lost in &lost {
                fence(&mut regions[from], *lost, 1);
            }
        }
        let old: Vec<_> = (0..2).map(|from| all_messages(&regions[from])).collect();
        let survivors = vec![regions[0].identity, regions[1].identity];
        // One removes the lost regions, and collects, long before the other one does.
        regions[0].set_peers(2, survivors.clone());
        run_steps(&mut regions, after, 2);
        regions[0].collect();
        regions[1].set_peers(2, survivors);
        for _ in 0..4 {
            send(&mut regions, 0, 1, usize::MAX);
            send(&mut regions, 1, 0, usize::MAX);
            regions[0].collect();
            regions[1].collect();
        }
        // Later messages of the lost regions, or about them, change nothing.
        for (to, messages) in old.iter().rev().enumerate() {
            for message in messages {
                prop_assert!(!reconcile(&mut regions[to], message));
            }
            let merges = in_flight.clone();
            let ShardResponse::Merges(outcomes) =
                regions[to].apply(Kind::Merges(pb::Merges { time: 0, merges }))
            else {
                panic!("a merge answers with outcomes");
            };
            prop_assert!(outcomes.iter().all(|outcome| !outcome.is_known));
        }
        let end = regions.iter().map(|region| region.clock).max().unwrap() + 1000;
        for _ in 0..3 {
            for region in &mut regions[..2] {
                region.clock = end;
                region.expire(end);
            }
            send(&mut regions, 0, 1, usize::MAX);
            send(&mut regions, 1, 0, usize::MAX);
            regions[0].collect();
            regions[1].collect();
        }
        prop_assert_eq!(regions[0].live_entries(), regions[1].live_entries());
        for (key, version) in (0..KEYS).zip(newest) {
            let current = regions[0].version(key);
            // Collected, or at least as new as before.
            prop_assert!(current.is_none() || current >= version);
        }
        for region in &regions[..2] {
            let header = &region.state.header;
            prop_assert_eq!((header.retained_changes, header.retained_bytes), (0, 0));
            prop_assert!(region.view().collectable_tombstones(10).unwrap().is_empty());
            let state = region.view().bucket(BUCKET).unwrap();
            prop_assert_eq!(state.digest, regions[0].view().bucket(BUCKET).unwrap().digest);
        }
    }
}

/// A batch of a region's history leaves out what was overwritten after the batch's end.
#[test]
fn a_record_that_one_has_got_before_it_was_overwritten_reaches_the_other_too() {
    let mut regions = regions(3);
    for (key, value) in [(0, "early"), (2, "two"), (1, "one")] {
        regions[2].put(key, value, 0);
    }
    send(&mut regions, 2, 1, 1);
    regions[2].put(0, "late", 0);
    send(&mut regions, 2, 0, 1);
    let (lost, early) = (regions[2].identity, regions[1].version(0));
    assert!(early.is_some() && regions[0].version(0).is_none());
    fence(&mut regions[0], lost, 0);
    fence(&mut regions[1], lost, 0);
    for (from, to) in [(0, 1), (1, 0)] {
        for message in reconciliations(&regions[from], lost) {
            assert!(reconcile(&mut regions[to], &message));
        }
    }
    assert_eq!(regions[0].version(0), early);
    assert_eq!(regions[0].live_entries(), regions[1].live_entries());
}

#[test]
fn a_fenced_region_changes_nothing_and_is_reconciled_only_after_the_fence() {
    let mut regions = regions(3);
    regions[2].put(1, "one", 0);
    regions[2].put(2, "two", 0);
    send(&mut regions, 2, 0, 2);
    let lost = regions[2].identity;
    let batches = regions[2].batches(2, 0, 10);
    let messages = reconciliations(&regions[0], lost);
    assert!(!reconcile(&mut regions[1], &messages[0]), "not fenced yet");
    fence(&mut regions[1], lost, 0);
    let merges = batches;
    let ShardResponse::Merges(outcomes) =
        regions[1].apply(Kind::Merges(pb::Merges { time: 0, merges }))
    else {
        panic!("a merge answers with outcomes");
    };
    assert!(!outcomes[0].is_known);
    assert!(regions[1].live_entries().is_empty());
    assert!(reconcile(&mut regions[1], &messages[0]));
    assert_eq!(regions[1].live_entries(), regions[0].live_entries());
    assert_eq!(regions[1].live_entries().len(), 2);
    assert_eq!(regions[1].peer(3).cursor, 0);
}

#[test]
fn the_last_region_collects_what_it_retained_for_others() {
    let mut regions = regions(3);
    regions[0].put(1, "one", 0);
    regions[0].write(1, Op::Delete(pb::Delete {}));
    assert_eq!(regions[0].state.header.retained_changes, 1);
    for lost in [regions[1].identity, regions[2].identity] {
        fence(&mut regions[0], lost, 1);
    }
    let me = regions[0].identity;
    regions[0].set_peers(2, vec![me]);
    regions[0].collect();
    let header = &regions[0].state.header;
    assert_eq!((header.retained_changes, header.digest), (0, 0));
    assert_eq!(regions[0].version(1), None);
}
