//! Contents of a file under power losses and failed syncs.

use super::file_contents::*;
use crate::rng::Rng;

fn contents() -> FileContents {
    FileContents::new(tempfile::tempfile().unwrap())
}

fn all_of(contents: &FileContents) -> Vec<u8> {
    contents.read(0, u64::MAX).unwrap()
}

fn apply_power_loss(
    contents: &mut FileContents,
    loss: LossExtent,
    guarantee: CrashConsistency,
    seed: u64,
) {
    contents
        .apply_power_loss(loss, guarantee, &mut Rng::new(seed))
        .unwrap();
}

#[test]
fn synced_bytes_stay_and_others_may_be_lost() {
    let mut file = contents();
    file.write(0, &[1; 2000]).unwrap();
    file.sync();
    file.write(500, &[2; 100]).unwrap();
    file.write(500, &[3; 3000]).unwrap();
    file.resize(100).unwrap();
    assert!(file.is_unsynced());
    apply_power_loss(
        &mut file,
        LossExtent::Everything,
        CrashConsistency::Posix,
        1,
    );
    assert_eq!(all_of(&file), [1; 2000]);
    file.write(10, b"kept").unwrap();
    apply_power_loss(&mut file, LossExtent::Nothing, CrashConsistency::Posix, 1);
    assert_eq!(&all_of(&file)[10..14], b"kept");
    assert!(!file.is_unsynced());
}

#[test]
fn each_sector_is_one_of_its_versions() {
    let (mut torn, mut versions) = (false, std::collections::BTreeSet::new());
    for seed in 0..60 {
        let mut file = contents();
        file.write(0, &[1; 1536]).unwrap();
        file.sync();
        file.write(0, &[2; 1536]).unwrap();
        file.write(0, &[3; 1536]).unwrap();
        apply_power_loss(
            &mut file,
            LossExtent::Partial,
            CrashConsistency::Posix,
            seed,
        );
        let bytes = all_of(&file);
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]));
            versions.insert(sector[0]);
        }
        torn |= bytes[0] != bytes[1535];
    }
    assert!(torn);
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn appended_bytes_are_lost_from_the_end_where_that_is_guaranteed() {
    let holes = |guarantee| {
        let mut holes = 0;
        for seed in 0..60 {
            let mut file = contents();
            file.write(0, &[1; 700]).unwrap();
            file.sync();
            file.write(700, &[2; 3000]).unwrap();
            apply_power_loss(&mut file, LossExtent::Partial, guarantee, seed);
            let bytes = all_of(&file);
            assert_eq!(bytes[..700], [1; 700]);
            holes += u32::from(bytes[700..].contains(&0));
        }
        holes
    };
    assert_eq!(holes(CrashConsistency::Journaled), 0);
    assert!(holes(CrashConsistency::Posix) > 0);
}

/// Creates a durable page of ones, overwritten with twos and followed by threes, whose sync failed.
fn with_failed_sync(seed: u64) -> FileContents {
    let mut file = contents();
    file.write(0, &[1; 4096]).unwrap();
    file.sync();
    file.write(0, &[2; 4096]).unwrap();
    file.write(4096, &[3; 8192]).unwrap();
    file.fail_sync(&mut Rng::new(seed)).unwrap();
    file
}

#[test]
fn dropped_pages_are_readable_and_no_later_sync_writes_them() {
    let (mut all, mut some) = (0, 0);
    for seed in 0..60 {
        let mut file = with_failed_sync(seed);
        assert_eq!(file.read(4095, 2).unwrap(), [2, 3]);
        file.sync();
        assert_eq!(file.read(4095, 2).unwrap(), [2, 3]);
        assert!(file.is_unsynced());
        apply_power_loss(
            &mut file,
            LossExtent::Nothing,
            CrashConsistency::Posix,
            seed,
        );
        let bytes = all_of(&file);
        assert_eq!(bytes.len(), 12288);
        let pages: Vec<u8> = bytes.chunks(4096).map(|page| page[0]).collect();
        assert!(
            bytes
                .chunks(4096)
                .all(|page| page.iter().all(|it| *it == page[0]))
        );
        assert!([1, 2].contains(&pages[0]), "{pages:?}");
        assert!(pages[1..].iter().all(|it| [0, 3].contains(it)), "{pages:?}");
        all += u32::from(pages == [1, 0, 0]);
        some += u32::from(pages != [1, 0, 0] && pages != [2, 3, 3]);
    }
    assert!(all > 20 && some > 5, "{all} {some}");
}

#[test]
fn pages_written_again_after_a_failed_sync_are_durable_after_the_next() {
    for seed in 0..20 {
        let mut file = with_failed_sync(seed);
        file.write(100, &[4; 10]).unwrap();
        file.write(4096, &[5; 8192]).unwrap();
        file.sync();
        apply_power_loss(
            &mut file,
            LossExtent::Everything,
            CrashConsistency::Posix,
            seed,
        );
        let bytes = all_of(&file);
        assert_eq!(bytes[..100], [2; 100], "a page is written as a whole");
        assert_eq!(bytes[100..110], [4; 10]);
        assert_eq!(bytes[4096..], [5; 8192]);
        // And without that sync they may be lost, to the state that was durable before.
        let mut file = with_failed_sync(seed);
        file.write(0, &[4; 4096]).unwrap();
        apply_power_loss(
            &mut file,
            LossExtent::Everything,
            CrashConsistency::Posix,
            seed,
        );
        assert_eq!(all_of(&file), [1; 4096]);
    }
}

#[test]
fn an_evicted_page_is_read_as_the_disk_has_it() {
    let mut file = with_failed_sync(1);
    file.write(0, &[6; 4096]).unwrap();
    file.evict().unwrap();
    let bytes = all_of(&file);
    assert_eq!((bytes.len(), bytes[0]), (12288, 6));
    assert!(bytes[4096..].iter().all(|it| [0, 3].contains(it)));
}
