//! Without any one rule, some property breaks.

use crate::check::assert_breaks;
use crate::joining::JoinStep;
use crate::model::Action;
use crate::propagation::AckDelivery;
use crate::properties::{CLEANED_UP, CONVERGENCE, DROPPED_BUCKETS, NO_STALE_VALUES, WATERMARKS};
use crate::record::{Kind, MAX_REGIONS};
use crate::rules::{Overwritten, Rules, Watermark};
use crate::world::{Setup, Write, writes};

/// A setup without some rules.
fn without(regions: usize, keys: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
    let mut setup = Setup::new(regions, keys, operations);
    change(&mut setup.rules);
    setup.splits_batches = false;
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
        assert_breaks("merge starts at cursor", CONVERGENCE, setup);
    }

    /// The guard alone would suffice for duplicates of whole batches.
    #[test]
    fn merge_ends_past_cursor() {
        let mut setup = without(2, 1, 2, |r| {
            r.merge_ends_past_cursor = false;
            r.guard = false;
        });
        setup.budget.duplicates = 1;
        assert_breaks("merge ends past cursor", NO_STALE_VALUES, setup);
    }

    #[test]
    fn overwritten() {
        let setup = without(3, 1, 2, |r| r.overwritten = Overwritten::DropEntry);
        assert_breaks("overwritten", WATERMARKS, setup);
    }

    #[test]
    fn skipped_moves_cursor() {
        let setup = without(2, 1, 2, |r| r.skipped_moves_cursor = false);
        assert_breaks("skipped moves cursor", CLEANED_UP, setup);
    }

    #[test]
    fn watermark_below_entries() {
        let setup = without(2, 1, 2, |r| r.watermark = Watermark::BelowEntries);
        assert_breaks("watermark below entries", WATERMARKS, setup);
    }

    #[test]
    fn watermark_last_version() {
        let setup = without(2, 1, 2, |r| r.watermark = Watermark::LastVersion);
        assert_breaks("watermark last version", WATERMARKS, setup);
    }

    #[test]
    fn entry_waits_for_every_peer() {
        let setup = without(3, 1, 1, |r| r.entry_waits_for_every_peer = false);
        assert_breaks("entry waits for every peer", CONVERGENCE, setup);
    }

    #[test]
    fn merge_raises_last_version() {
        let setup = without(2, 1, 2, |r| r.merge_raises_last_version = false);
        assert_breaks("merge raises last version", NO_STALE_VALUES, setup);
    }
}

mod tombstones {
    use super::*;

    #[test]
    fn tie_tombstone_wins() {
        let mut setup = without(2, 2, 2, |r| r.tie_tombstone_wins = false);
        setup.writes = writes(0..1, 0..2, &[Kind::Expiring]);
        setup.splits_batches = true;
        setup.budget.losses = 1;
        assert_breaks("tie tombstone wins", NO_STALE_VALUES, setup);
    }

    #[test]
    fn expiry_keeps_version() {
        let mut setup = without(2, 1, 2, |r| r.expiry_keeps_version = false);
        setup.writes = writes(
            0..MAX_REGIONS,
            0..setup.keys,
            &[Kind::Value, Kind::Expiring],
        );
        assert_breaks("expiry keeps version", CONVERGENCE, setup);
    }

    #[test]
    fn expiry_keeps_entry() {
        let mut setup = without(2, 1, 2, |r| r.expiry_keeps_entry = false);
        setup.writes = writes(
            0..MAX_REGIONS,
            0..setup.keys,
            &[Kind::Value, Kind::Expiring],
        );
        assert_breaks("expiry keeps entry", CONVERGENCE, setup);
    }

    #[test]
    fn absent_delete_leaves_tombstone() {
        let setup = without(2, 1, 2, |r| r.absent_delete_leaves_tombstone = false);
        assert_breaks("absent delete leaves tombstone", CONVERGENCE, setup);
    }

    #[test]
    fn last_version_stored() {
        let setup = without(2, 1, 2, |r| r.last_version_stored = false);
        assert_breaks("last version stored", CONVERGENCE, setup);
    }

    #[test]
    fn tombstone_waits_for_entry() {
        let setup = without(2, 1, 2, |r| r.tombstone_waits_for_entry = false);
        assert_breaks("tombstone waits for entry", CONVERGENCE, setup);
    }

    #[test]
    fn tombstone_waits_for_stable() {
        let mut setup = without(3, 1, 2, |r| r.tombstone_waits_for_stable = false);
        setup.writes = vec![write(0, 0, Kind::Value), write(2, 0, Kind::Tombstone)];
        setup.clocks = vec![0];
        setup.lost_region = Some(2);
        setup.budget.region_losses = 1;
        assert_breaks("tombstone waits for stable", CONVERGENCE, setup);
    }

    #[test]
    fn tombstone_waits_for_watermark() {
        let setup = without(2, 1, 2, |r| r.tombstone_waits_for_watermark = false);
        assert_breaks("tombstone waits for watermark", NO_STALE_VALUES, setup);
    }

    #[test]
    fn removed_origin_is_stable() {
        let mut setup = without(2, 1, 1, |r| r.removed_origin_is_stable = false);
        setup.lost_region = Some(0);
        setup.budget.region_losses = 1;
        assert_breaks("removed origin is stable", CLEANED_UP, setup);
    }

    #[test]
    fn marker_refuses_merges() {
        let mut setup = without(2, 1, 2, |r| r.marker_refuses_merges = false);
        setup.deletes_bucket = true;
        assert_breaks("marker refuses merges", DROPPED_BUCKETS, setup);
    }

    /// A batch of a new leader begins at the acknowledged position, before the cursor.
    #[test]
    fn guard() {
        let mut setup = without(2, 2, 4, |r| r.guard = false);
        setup.writes = vec![write(0, 1, Kind::Value), write(1, 0, Kind::Tombstone)];
        setup.budget.losses = 2;
        setup.initial_actions = vec![
            Action::Write(write(0, 0, Kind::Value), 0),
            Action::Send {
                origin: 0,
                peer: 1,
                first_only: false,
                reset: false,
            },
            Action::Deliver {
                message: 0,
                duplicate: false,
                ack: AckDelivery::Lost,
            },
        ];
        assert_breaks("guard", NO_STALE_VALUES, setup);
    }
}

mod joining {
    use super::*;

    fn joining(regions: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
        let mut setup = without(regions, 1, operations, change);
        setup.newcomer = Some(regions);
        setup
    }

    #[test]
    fn view_after_all_set_peers() {
        let setup = joining(2, 1, |r| r.view_after_all_set_peers = false);
        assert_breaks("view after all set peers", CLEANED_UP, setup);
    }

    #[test]
    fn newcomer_from_lowest_ack() {
        let setup = joining(2, 1, |r| r.newcomer_from_lowest_ack = false);
        assert_breaks("newcomer from lowest ack", CLEANED_UP, setup);
    }

    #[test]
    fn cursors_before_copy() {
        let setup = joining(1, 1, |r| r.cursors_before_copy = false);
        assert_breaks("cursors before copy", CONVERGENCE, setup);
    }

    #[test]
    fn copy_carries_tombstones() {
        let mut setup = joining(2, 2, |r| r.copy_carries_tombstones = false);
        setup.writes = vec![write(0, 0, Kind::Value), write(1, 0, Kind::Tombstone)];
        setup.clocks = vec![0];
        assert_breaks("copy carries tombstones", CONVERGENCE, setup);
    }

    #[test]
    fn drop_reaches_newcomer() {
        let mut setup = joining(2, 2, |r| r.drop_reaches_newcomer = false);
        setup.writes = vec![write(1, 0, Kind::Value)];
        setup.clocks = vec![0];
        setup.deletes_bucket = true;
        assert_breaks("drop reaches newcomer", CONVERGENCE, setup);
    }

    #[test]
    fn ack_after_copy() {
        let mut setup = joining(2, 1, |r| r.ack_after_copy = false);
        setup.writes = writes(0..MAX_REGIONS, 0..setup.keys, &[Kind::Value]);
        setup.budget.copy_aborts = 1;
        assert_breaks("ack after copy", CLEANED_UP, setup);
    }

    #[test]
    fn joining_ignores_watermarks() {
        let setup = joining(1, 1, |r| r.joining_ignores_watermarks = false);
        assert_breaks("joining ignores watermarks", CONVERGENCE, setup);
    }

    /// A newcomer that acknowledges nothing has no tombstone that it could collect too early, so
    /// that rule is off, too.
    #[test]
    fn joining_collects_nothing() {
        let setup = joining(1, 2, |r| {
            r.joining_collects_nothing = false;
            r.ack_after_copy = false;
        });
        assert_breaks("joining collects nothing", NO_STALE_VALUES, setup);
    }

    #[test]
    fn watermark_0_while_joining() {
        let mut setup = joining(2, 2, |r| r.watermark_0_while_joining = false);
        setup.clocks = vec![0];
        setup.budget.delays = 1;
        setup.initial_actions = vec![
            Action::Write(write(0, 0, Kind::Value), 0),
            Action::Write(write(1, 0, Kind::Tombstone), 0),
            Action::Join(JoinStep::SetPeers { region: 0 }),
            Action::Send {
                origin: 0,
                peer: 2,
                first_only: false,
                reset: false,
            },
        ];
        assert_breaks("watermark 0 while joining", CONVERGENCE, setup);
    }

    #[test]
    fn raise_last_versions() {
        let setup = joining(1, 2, |r| r.raise_last_versions = false);
        assert_breaks("raise last versions", CONVERGENCE, setup);
    }
}

mod removal {
    use super::*;

    fn losing(regions: usize, operations: u8, change: impl Fn(&mut Rules)) -> Setup {
        let mut setup = without(regions, 1, operations, change);
        setup.lost_region = Some(0);
        setup.budget.region_losses = 1;
        setup
    }

    #[test]
    fn fence_first() {
        let mut setup = losing(3, 1, |r| r.fence_first = false);
        setup.writes = writes(0..MAX_REGIONS, 0..setup.keys, &[Kind::Value]);
        assert_breaks("fence first", CONVERGENCE, setup);
    }

    #[test]
    fn reconcile_first() {
        let mut setup = losing(3, 1, |r| r.reconcile_first = false);
        setup.writes = writes(0..3, 0..1, &[Kind::Value]);
        assert_breaks("reconcile first", CONVERGENCE, setup);
    }

    #[test]
    fn reconcile_both_ways() {
        let mut setup = losing(2, 1, |r| r.reconcile_both_ways = false);
        setup.newcomer = Some(2);
        setup.writes = vec![write(0, 0, Kind::Value)];
        setup.clocks = vec![0];
        assert_breaks("reconcile both ways", CONVERGENCE, setup);
    }

    #[test]
    fn newcomer_emptied() {
        let mut setup = losing(2, 2, |r| r.newcomer_emptied = false);
        setup.newcomer = Some(0);
        assert_breaks("newcomer emptied", CONVERGENCE, setup);
    }

    #[test]
    fn incarnation_checked() {
        let mut setup = losing(2, 2, |r| r.incarnation_checked = false);
        setup.newcomer = Some(0);
        setup.writes = vec![write(0, 0, Kind::Value)];
        assert_breaks("incarnation checked", CONVERGENCE, setup);
    }

    #[test]
    fn ack_names_receiver() {
        let mut setup = losing(3, 1, |r| r.ack_names_receiver = false);
        setup.newcomer = Some(0);
        setup.writes = vec![write(1, 0, Kind::Value)];
        setup.clocks = vec![0];
        setup.budget.delays = 1;
        assert_breaks("ack names receiver", CLEANED_UP, setup);
    }
}
