//! Without any one rule, some property breaks.

use crate::check::breaks;
use crate::joining::Step;
use crate::model::Action;
use crate::propagation::Answer;
use crate::properties::{CONVERGE, DELETED, DROPPED, SETTLE, WATERMARKS};
use crate::record::{Kind, REGIONS};
use crate::rules::{Overwritten, Rules, Watermark};
use crate::world::{Setup, Write, writes};

/// A setup without some rules.
fn without(regions: usize, keys: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
    let mut setup = Setup::new(regions, keys, operations);
    change(&mut setup.rules);
    setup.split = false;
    setup
}

fn write(region: usize, key: usize, kind: Kind) -> Write {
    Write { region, key, kind }
}

mod streams {
    use super::*;

    #[test]
    fn merge_starts_at_cursor() {
        let mut setup = without(2, 2, 2, |r| r.merge_starts_at_cursor = false);
        setup.writes = writes(0..1, 0..2, &[Kind::Value]);
        breaks("merge starts at cursor", CONVERGE, setup);
    }

    /// The guard alone would suffice for duplicates of whole batches.
    #[test]
    fn merge_ends_past_cursor() {
        let mut setup = without(2, 1, 2, |r| {
            r.merge_ends_past_cursor = false;
            r.guard = false;
        });
        setup.budget.duplicates = 1;
        breaks("merge ends past cursor", DELETED, setup);
    }

    #[test]
    fn overwritten() {
        let setup = without(3, 1, 2, |r| r.overwritten = Overwritten::DropEntry);
        breaks("overwritten", WATERMARKS, setup);
    }

    #[test]
    fn skipped_moves_cursor() {
        let setup = without(2, 1, 2, |r| r.skipped_moves_cursor = false);
        breaks("skipped moves cursor", SETTLE, setup);
    }

    #[test]
    fn watermark_below_entries() {
        let setup = without(2, 1, 2, |r| r.watermark = Watermark::BelowEntries);
        breaks("watermark below entries", WATERMARKS, setup);
    }

    #[test]
    fn watermark_last_version() {
        let setup = without(2, 1, 2, |r| r.watermark = Watermark::LastVersion);
        breaks("watermark last version", WATERMARKS, setup);
    }

    #[test]
    fn entry_waits_for_every_peer() {
        let setup = without(3, 1, 1, |r| r.entry_waits_for_every_peer = false);
        breaks("entry waits for every peer", CONVERGE, setup);
    }

    #[test]
    fn merge_raises_last_version() {
        let setup = without(2, 1, 2, |r| r.merge_raises_last_version = false);
        breaks("merge raises last version", DELETED, setup);
    }
}

mod tombstones {
    use super::*;

    #[test]
    fn tie_tombstone_wins() {
        let mut setup = without(2, 2, 2, |r| r.tie_tombstone_wins = false);
        setup.writes = writes(0..1, 0..2, &[Kind::Expiring]);
        setup.split = true;
        setup.budget.losses = 1;
        breaks("tie tombstone wins", DELETED, setup);
    }

    #[test]
    fn expiry_keeps_version() {
        let mut setup = without(2, 1, 2, |r| r.expiry_keeps_version = false);
        setup.writes = writes(0..REGIONS, 0..setup.keys, &[Kind::Value, Kind::Expiring]);
        breaks("expiry keeps version", CONVERGE, setup);
    }

    #[test]
    fn expiry_keeps_entry() {
        let mut setup = without(2, 1, 2, |r| r.expiry_keeps_entry = false);
        setup.writes = writes(0..REGIONS, 0..setup.keys, &[Kind::Value, Kind::Expiring]);
        breaks("expiry keeps entry", CONVERGE, setup);
    }

    #[test]
    fn absent_delete_leaves_tombstone() {
        let setup = without(2, 1, 2, |r| r.absent_delete_leaves_tombstone = false);
        breaks("absent delete leaves tombstone", CONVERGE, setup);
    }

    #[test]
    fn last_version_stored() {
        let setup = without(2, 1, 2, |r| r.last_version_stored = false);
        breaks("last version stored", CONVERGE, setup);
    }

    #[test]
    fn tombstone_waits_for_entry() {
        let setup = without(2, 1, 2, |r| r.tombstone_waits_for_entry = false);
        breaks("tombstone waits for entry", CONVERGE, setup);
    }

    #[test]
    fn tombstone_waits_for_stable() {
        let mut setup = without(3, 1, 2, |r| r.tombstone_waits_for_stable = false);
        setup.writes = vec![write(0, 0, Kind::Value), write(2, 0, Kind::Tombstone)];
        setup.clocks = vec![0];
        setup.loses = Some(2);
        setup.budget.regions_lost = 1;
        breaks("tombstone waits for stable", CONVERGE, setup);
    }

    #[test]
    fn tombstone_waits_for_watermark() {
        let setup = without(2, 1, 2, |r| r.tombstone_waits_for_watermark = false);
        breaks("tombstone waits for watermark", DELETED, setup);
    }

    #[test]
    fn removed_origin_is_stable() {
        let mut setup = without(2, 1, 1, |r| r.removed_origin_is_stable = false);
        setup.loses = Some(0);
        setup.budget.regions_lost = 1;
        breaks("removed origin is stable", SETTLE, setup);
    }

    #[test]
    fn marker_refuses_merges() {
        let mut setup = without(2, 1, 2, |r| r.marker_refuses_merges = false);
        setup.deletes_bucket = true;
        breaks("marker refuses merges", DROPPED, setup);
    }

    /// A batch of a new leader begins at the acknowledged position, before the cursor.
    #[test]
    fn guard() {
        let mut setup = without(2, 2, 4, |r| r.guard = false);
        setup.writes = vec![write(0, 1, Kind::Value), write(1, 0, Kind::Tombstone)];
        setup.budget.losses = 2;
        setup.begins_with = vec![
            Action::Write(write(0, 0, Kind::Value), 0),
            Action::Send {
                origin: 0,
                peer: 1,
                first_only: false,
                reset: false,
            },
            Action::Deliver {
                message: 0,
                again: false,
                answer: Answer::IsLost,
            },
        ];
        breaks("guard", DELETED, setup);
    }
}

mod joining {
    use super::*;

    fn joining(regions: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
        let mut setup = without(regions, 1, operations, change);
        setup.joins = Some(regions);
        setup
    }

    #[test]
    fn view_after_all_set_peers() {
        let setup = joining(2, 1, |r| r.view_after_all_set_peers = false);
        breaks("view after all set peers", SETTLE, setup);
    }

    #[test]
    fn newcomer_from_lowest_ack() {
        let setup = joining(2, 1, |r| r.newcomer_from_lowest_ack = false);
        breaks("newcomer from lowest ack", SETTLE, setup);
    }

    #[test]
    fn cursors_before_copy() {
        let setup = joining(1, 1, |r| r.cursor_first_then_walk = false);
        breaks("cursors before copy", CONVERGE, setup);
    }

    #[test]
    fn copy_carries_tombstones() {
        let mut setup = joining(2, 2, |r| r.walk_carries_tombstones = false);
        setup.writes = vec![write(0, 0, Kind::Value), write(1, 0, Kind::Tombstone)];
        setup.clocks = vec![0];
        breaks("copy carries tombstones", CONVERGE, setup);
    }

    #[test]
    fn drop_reaches_newcomer() {
        let mut setup = joining(2, 2, |r| r.drop_reaches_newcomer = false);
        setup.writes = vec![write(1, 0, Kind::Value)];
        setup.clocks = vec![0];
        setup.deletes_bucket = true;
        breaks("drop reaches newcomer", CONVERGE, setup);
    }

    #[test]
    fn ack_after_copy() {
        let mut setup = joining(2, 1, |r| r.ack_after_walk = false);
        setup.writes = writes(0..REGIONS, 0..setup.keys, &[Kind::Value]);
        setup.budget.walk_breaks = 1;
        breaks("ack after copy", SETTLE, setup);
    }

    #[test]
    fn joining_ignores_watermarks() {
        let setup = joining(1, 1, |r| r.joining_honours_none = false);
        breaks("joining ignores watermarks", CONVERGE, setup);
    }

    /// A newcomer that acknowledges nothing has no tombstone that it could collect too early, so
    /// that rule is off, too.
    #[test]
    fn joining_collects_nothing() {
        let setup = joining(1, 2, |r| {
            r.joining_collects_nothing = false;
            r.ack_after_walk = false;
        });
        breaks("joining collects nothing", DELETED, setup);
    }

    #[test]
    fn watermark_0_while_joining() {
        let mut setup = joining(2, 2, |r| r.watermark_0_while_joining = false);
        setup.clocks = vec![0];
        setup.budget.late = 1;
        setup.begins_with = vec![
            Action::Write(write(0, 0, Kind::Value), 0),
            Action::Write(write(1, 0, Kind::Tombstone), 0),
            Action::Join(Step::SetPeers { region: 0 }),
            Action::Send {
                origin: 0,
                peer: 2,
                first_only: false,
                reset: false,
            },
        ];
        breaks("watermark 0 while joining", CONVERGE, setup);
    }

    #[test]
    fn raise_last_versions() {
        let setup = joining(1, 2, |r| r.raise_last_versions = false);
        breaks("raise last versions", CONVERGE, setup);
    }
}

mod removal {
    use super::*;

    fn losing(regions: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
        let mut setup = without(regions, 1, operations, change);
        setup.loses = Some(0);
        setup.budget.regions_lost = 1;
        setup
    }

    #[test]
    fn fence_first() {
        let mut setup = losing(3, 1, |r| r.fence_first = false);
        setup.writes = writes(0..REGIONS, 0..setup.keys, &[Kind::Value]);
        breaks("fence first", CONVERGE, setup);
    }

    #[test]
    fn reconcile_first() {
        let mut setup = losing(3, 1, |r| r.level_first = false);
        setup.writes = writes(0..3, 0..1, &[Kind::Value]);
        breaks("reconcile first", CONVERGE, setup);
    }

    #[test]
    fn reconcile_both_ways() {
        let mut setup = losing(2, 1, |r| r.level_each_way = false);
        setup.joins = Some(2);
        setup.writes = vec![write(0, 0, Kind::Value)];
        setup.clocks = vec![0];
        breaks("reconcile both ways", CONVERGE, setup);
    }

    #[test]
    fn newcomer_emptied() {
        let mut setup = losing(2, 2, |r| r.newcomer_emptied = false);
        setup.joins = Some(0);
        breaks("newcomer emptied", CONVERGE, setup);
    }

    #[test]
    fn incarnation_checked() {
        let mut setup = losing(2, 2, |r| r.incarnation_checked = false);
        setup.joins = Some(0);
        setup.writes = vec![write(0, 0, Kind::Value)];
        breaks("incarnation checked", CONVERGE, setup);
    }

    #[test]
    fn ack_names_receiver() {
        let mut setup = losing(3, 1, |r| r.ack_names_receiver = false);
        setup.joins = Some(0);
        setup.writes = vec![write(1, 0, Kind::Value)];
        setup.clocks = vec![0];
        setup.budget.late = 1;
        breaks("ack names receiver", SETTLE, setup);
    }
}
