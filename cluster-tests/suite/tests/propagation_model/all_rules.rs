//! With all rules, every property holds.

use crate::check::assert_holds;
use crate::record::Kind;
use crate::rules::{Overwritten, Watermark};
use crate::world::{Setup, writes};

/// A setup without split batches, and with clocks that are behind all versions.
fn plain(regions: usize, operations: u8) -> Setup {
    let mut setup = Setup::new(regions, 1, operations);
    setup.splits_batches = false;
    setup.max_in_flight = 1;
    setup.clocks = vec![0];
    setup
}

#[test]
fn two_regions_one_key() {
    let mut setup = Setup::new(2, 1, 3);
    setup.budget.resets = 1;
    setup.budget.duplicates = 1;
    assert_holds("two regions, one key", setup);
}

#[test]
fn two_regions_two_keys() {
    let mut setup = Setup::new(2, 2, 2);
    setup.budget.resets = 1;
    setup.budget.duplicates = 1;
    assert_holds("two regions, two keys", setup);
}

#[test]
fn two_regions_with_lost_messages() {
    let mut setup = Setup::new(2, 1, 2);
    setup.budget.losses = 1;
    setup.budget.delays = 1;
    setup.budget.resets = 1;
    assert_holds("two regions with lost messages", setup);
}

#[test]
fn two_regions_with_expiry() {
    let mut setup = Setup::new(2, 1, 2);
    setup.writes = writes(0..2, 0..1, &[Kind::Value, Kind::Expiring, Kind::Tombstone]);
    setup.budget.duplicates = 1;
    setup.budget.losses = 1;
    assert_holds("two regions with expiry", setup);
}

#[test]
fn three_regions() {
    let mut setup = plain(3, 2);
    setup.max_in_flight = 2;
    assert_holds("three regions", setup);
}

#[test]
fn a_bucket_is_deleted() {
    let mut setup = Setup::new(2, 1, 3);
    setup.deletes_bucket = true;
    setup.budget.duplicates = 1;
    assert_holds("a bucket is deleted", setup);
}

#[test]
fn a_second_region_joins() {
    let mut setup = Setup::new(1, 1, 3);
    setup.newcomer = Some(1);
    setup.budget.copy_aborts = 1;
    assert_holds("a second region joins", setup);
}

#[test]
fn a_second_region_joins_with_two_keys() {
    let mut setup = plain(1, 2);
    setup.keys = 2;
    setup.writes = writes(0..2, 0..2, &[Kind::Value, Kind::Tombstone]);
    setup.newcomer = Some(1);
    setup.budget.copy_aborts = 1;
    setup.budget.delays = 1;
    assert_holds("a second region joins with two keys", setup);
}

#[test]
fn a_third_region_joins() {
    let mut setup = plain(2, 1);
    setup.newcomer = Some(2);
    setup.budget.copy_aborts = 1;
    setup.budget.delays = 1;
    assert_holds("a third region joins", setup);
}

#[test]
fn a_region_joins_while_a_bucket_is_deleted() {
    let mut setup = plain(2, 2);
    setup.writes = writes(1..2, 0..1, &[Kind::Value]);
    setup.newcomer = Some(2);
    setup.deletes_bucket = true;
    assert_holds("a region joins while a bucket is deleted", setup);
}

#[test]
fn a_region_is_lost() {
    let mut setup = plain(3, 2);
    setup.writes.retain(|write| write.region != 1);
    setup.lost_region = Some(0);
    setup.budget.region_losses = 1;
    assert_holds("a region is lost", setup);
}

#[test]
fn a_region_joins_and_another_is_lost() {
    let mut setup = plain(2, 1);
    setup.newcomer = Some(2);
    setup.lost_region = Some(0);
    setup.budget.region_losses = 1;
    assert_holds("a region joins and another is lost", setup);
}

#[test]
fn a_region_is_lost_and_joins_again() {
    let mut setup = Setup::new(2, 1, 2);
    setup.lost_region = Some(0);
    setup.newcomer = Some(0);
    setup.budget.region_losses = 1;
    setup.budget.delays = 1;
    assert_holds("a region is lost and joins again", setup);
}

/// Regions converge even if watermarks overtake changes that were overwritten before they were
/// sent; but a reader that waits for such a watermark sees an older version.
#[test]
fn regions_converge_without_true_watermarks() {
    let mut setup = plain(3, 2);
    setup.writes = writes(0..3, 0..1, &[Kind::Value]);
    setup.rules.overwritten = Overwritten::DropEntry;
    setup.rules.watermark = Watermark::BelowEntries;
    setup.checks_watermarks = false;
    assert_holds("regions converge without true watermarks", setup);
}

/// Wider bounds, to be run after a change of a rule.
mod wide {
    use super::*;

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn two_regions() {
        let mut setup = Setup::new(2, 1, 3);
        setup.writes = writes(0..2, 0..1, &[Kind::Value, Kind::Expiring, Kind::Tombstone]);
        setup.budget.losses = 1;
        setup.budget.duplicates = 1;
        assert_holds("wide: two regions", setup);
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn two_keys() {
        let mut setup = Setup::new(2, 2, 3);
        setup.budget.losses = 1;
        setup.budget.resets = 1;
        assert_holds("wide: two keys", setup);
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn three_regions() {
        assert_holds("wide: three regions", plain(3, 3));
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn a_third_region_joins() {
        let mut setup = plain(2, 2);
        setup.newcomer = Some(2);
        setup.budget.copy_aborts = 1;
        assert_holds("wide: a third region joins", setup);
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn a_third_region_joins_while_a_bucket_is_deleted() {
        let mut setup = plain(2, 2);
        setup.newcomer = Some(2);
        setup.deletes_bucket = true;
        setup.budget.copy_aborts = 1;
        assert_holds(
            "wide: a third region joins while a bucket is deleted",
            setup,
        );
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn a_region_is_lost() {
        let mut setup = plain(3, 2);
        setup.max_in_flight = 2;
        setup.lost_region = Some(0);
        setup.budget.region_losses = 1;
        setup.budget.duplicates = 1;
        assert_holds("wide: a region is lost", setup);
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn one_of_three_is_lost_and_joins_again() {
        let mut setup = plain(3, 1);
        setup.lost_region = Some(0);
        setup.newcomer = Some(0);
        setup.budget.region_losses = 1;
        setup.budget.delays = 1;
        setup.budget.duplicates = 1;
        assert_holds("wide: one of three is lost and joins again", setup);
    }

    #[test]
    #[ignore = "wide bounds: for a release build"]
    fn a_region_joins_and_another_is_lost() {
        let mut setup = plain(2, 2);
        setup.writes = writes(0..2, 0..1, &[Kind::Value, Kind::Tombstone]);
        setup.newcomer = Some(2);
        setup.lost_region = Some(0);
        setup.budget.region_losses = 1;
        assert_holds("wide: a region joins and another is lost", setup);
    }
}
