//! Tests of recovery from any state of the files that a crash of the machine may leave.
//!
//! Between two syncs, any of the sectors that were written since the first may be on the disk and
//! any others not. So the files as of both syncs are mixed: whatever the mix, the log must have
//! everything that was durable, and nothing but records written after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rand_like::Rng;
use tempfile::TempDir;

use super::SegmentLog;
use super::model_tests::{Model, SETTINGS, Step, contents_of, open, perform, step};
use super::segment::{self, BLOCK_BYTES};

use crate::store::keys::GroupId;

const SECTOR: usize = 512;

/// Small random number generator, seeded by the test.
mod rand_like {
    pub(super) struct Rng(pub u64);

    impl Rng {
        pub(super) fn next(&mut self) -> u64 {
            // xorshift64*, by Marsaglia and Vigna.
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        pub(super) fn flips(&mut self) -> bool {
            self.next() >> 63 == 1
        }
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_of(dir: &Path) -> Files {
    let mut files = Files::new();
    for folder in [dir.to_owned(), dir.join("log")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(dir).unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Reads the number of the segment in a file, if it holds one.
fn segment_of(bytes: &[u8]) -> Option<u64> {
    let frame = super::frame::read(bytes)?;
    super::tail::SegmentHeader::parse(frame.body).map(|beginning| beginning.number)
}

/// Mixes the files that a crash between two syncs may leave: segments reach the disk one after the
/// other, the sectors of one of them in any order.
fn mix_files(before: &Files, after: &Files, random: &mut Rng) -> Files {
    let mut changed: Vec<&PathBuf> = after
        .iter()
        .filter(|(name, bytes)| name.starts_with("log") && before.get(*name) != Some(bytes))
        .map(|(name, _)| name)
        .collect();
    changed.sort_by_key(|name| segment_of(&after[*name]));
    let torn = (random.next() as usize) % (changed.len() + 1);
    let mut mixed = before.clone();
    for (number, name) in changed.into_iter().enumerate() {
        let new = &after[name];
        let old = before
            .get(name)
            .cloned()
            .unwrap_or_else(|| vec![0; new.len()]);
        let file = match number.cmp(&torn) {
            std::cmp::Ordering::Less => new.clone(),
            std::cmp::Ordering::Equal => {
                let sectors = new.chunks(SECTOR).zip(old.chunks(SECTOR));
                sectors
                    .flat_map(|(new, old)| if random.flips() { new } else { old })
                    .copied()
                    .collect()
            }
            std::cmp::Ordering::Greater => old,
        };
        mixed.insert(name.clone(), file);
    }
    mixed
}

fn write(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// Returns whether `actual` is `before`, with some of the changes up to `after`.
fn lies_between(actual: &Model, before: &Model, after: &Model) -> bool {
    after.iter().all(|(group, after)| {
        let actual = actual.get(group).cloned().unwrap_or_default();
        let before = before.get(group).cloned().unwrap_or_default();
        let is_one_of = actual.vote == before.vote || actual.vote == after.vote;
        let old = before.entries.iter();
        let keeps = old
            .filter(|(number, entry)| after.entries.get(number) == Some(*entry))
            .all(|(number, entry)| actual.entries.get(number) == Some(entry));
        let adds = actual.entries.iter().all(|(number, entry)| {
            before.entries.get(number) == Some(entry) || after.entries.get(number) == Some(entry)
        });
        let numbers: Vec<u64> = actual.entries.keys().copied().collect();
        let has_no_hole = numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        is_one_of && keeps && adds && has_no_hole
    })
}

/// Waits until all records written so far are synced, so that the next sync covers only later
/// ones.
fn sync_all(log: &SegmentLog, model: &mut Model) {
    // The release of a segment is a record of its own, after the sync that allows it.
    for _ in 0..3 {
        perform(log, model, &Step::Vote(0, 9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_crash_loses_no_durable_record_and_invents_none(
        history in proptest::collection::vec(step(), 1..40),
        last in step(),
        seed in 1..u64::MAX,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir);
        let mut model = Model::new();
        for step in history.iter().filter(|step| !matches!(step, Step::Reopen)) {
            perform(&log, &mut model, step);
        }
        sync_all(&log, &mut model);
        let (before, durable) = (files_of(dir.path()), model.clone());
        perform(&log, &mut model, &last);
        perform(&log, &mut model, &Step::Append(1, vec![300], 77));
        let after = files_of(dir.path());
        drop(log);
        let mut random = Rng(seed);
        for _ in 0..8 {
            let crashed = write(&mix_files(&before, &after, &mut random));
            let log = open(&crashed);
            let recovered = contents_of(&log, &model);
            prop_assert!(lies_between(&recovered, &durable, &model), "{:?}", recovered);
            // Writes continue from there, and are recovered.
            let mut next = recovered;
            for group in next.values_mut() {
                let last = group.entries.keys().next_back();
                group.next = last.map_or(group.next.max(1), |last| last + 1);
            }
            for group in 0..2 {
                if next.contains_key(&group) {
                    perform(&log, &mut next, &Step::Append(group, vec![200, 4000], 3));
                }
            }
            drop(log);
            prop_assert_eq!(contents_of(&open(&crashed), &next), next);
        }
    }
}

/// Appends an entry of this size and nothing else.
fn append_one(log: &SegmentLog, number: u64, size: usize, fill: u8) {
    let (done, wait) = std::sync::mpsc::channel();
    let done = Box::new(move |result| done.send(result).unwrap());
    let entry = (number, |out: &mut Vec<u8>| {
        out.extend(std::iter::repeat_n(fill, size))
    });
    log.append(GroupId(0), [entry], None, done).unwrap();
    wait.recv().unwrap().unwrap();
}

#[test]
fn records_after_a_torn_record_do_not_reappear_after_its_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append_one(&log, 1, 100, 1);
    let before = files_of(dir.path());
    // The next record ends at a block boundary, and one more follows in the next block.
    let at = usize::try_from(log.shared.state.lock().tail.position().offset()).unwrap();
    let size = 2 * BLOCK_BYTES - at - super::frame::HEADER_BYTES - size_of::<u64>();
    append_one(&log, 2, size, 2);
    append_one(&log, 3, 100, 3);
    let after = files_of(dir.path());
    drop(log);
    // The crash tears the first of the two, and leaves the second one intact.
    let mut crashed = before.clone();
    // Skips a spare file that may have been created meanwhile.
    for (name, old) in before.iter().filter(|(name, _)| name.starts_with("log")) {
        let mut torn = after[name].clone();
        torn[at..2 * BLOCK_BYTES].copy_from_slice(&old[at..2 * BLOCK_BYTES]);
        crashed.insert(name.clone(), torn);
    }
    let crashed = write(&crashed);
    let numbers = |log: &SegmentLog| {
        let entries = log.entries(GroupId(0), 0, u64::MAX, usize::MAX).unwrap();
        entries
            .iter()
            .map(|(number, _)| *number)
            .collect::<Vec<_>>()
    };
    let log = open(&crashed);
    assert_eq!(numbers(&log), [1]);
    // Another record replaces the torn one, and ends at the same position.
    append_one(&log, 2, size, 4);
    drop(log);
    assert_eq!(numbers(&open(&crashed)), [1, 2]);
}

/// Returns the files after a power loss: as of the last sync of each, and as in `seen` for those
/// that `SegmentLog::open` has synced.
fn after_power_loss(disk: &Files, seen: &Files, dir: &TempDir) -> Files {
    let synced = segment::synced::take();
    let mut remaining = disk.clone();
    for path in synced {
        let name = path.strip_prefix(dir.path()).unwrap().to_owned();
        remaining.insert(name.clone(), seen[&name].clone());
    }
    remaining
}

#[test]
fn recovered_records_are_durable_when_the_log_is_open() {
    // An entry of the second size needs a new segment, in another file.
    for size in [100, 20_000] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir);
        append_one(&log, 1, 100, 1);
        let disk = files_of(dir.path());
        append_one(&log, 2, size, 2);
        drop(log);
        // The process was killed after it had written the second entry, and before it synced it.
        let mut seen = files_of(dir.path());
        seen.insert("log-synced".into(), disk[Path::new("log-synced")].clone());
        let killed = write(&seen);
        segment::synced::take();
        let log = open(&killed);
        // It is part of the log: a leader that sends it again gets an acknowledgement at once.
        assert_eq!(
            log.last(GroupId(0)).unwrap().map(|(number, _)| number),
            Some(2)
        );
        let remaining = write(&after_power_loss(&disk, &seen, &killed));
        drop(log);
        let log = open(&remaining);
        assert_eq!(
            log.last(GroupId(0)).unwrap().map(|(number, _)| number),
            Some(2)
        );
    }
}

#[test]
fn later_damage_of_recovered_records_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    append_one(&log, 1, 100, 1);
    let before = files_of(dir.path());
    append_one(&log, 2, 100, 2);
    drop(log);
    let mut seen = files_of(dir.path());
    let mark = PathBuf::from("log-synced");
    seen.insert(mark.clone(), before[&mark].clone());
    let killed = write(&seen);
    drop(open(&killed));
    let mut damaged = before;
    damaged.insert(mark.clone(), files_of(killed.path())[&mark].clone());
    let dir = write(&damaged);
    assert!(SegmentLog::open(dir.path(), &dir.path().join("log"), SETTINGS).is_err());
}

#[test]
fn a_log_that_is_unreadable_before_its_synced_position_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut model = Model::new();
    for _ in 0..30 {
        perform(&log, &mut model, &Step::Append(0, vec![900, 900], 5));
    }
    drop(log);
    let files = files_of(dir.path());
    let segments: Vec<_> = files
        .keys()
        .filter(|name| name.starts_with("log"))
        .collect();
    assert!(segments.len() > 2);
    for name in segments {
        if segment_of(&files[name]).is_none() {
            continue;
        }
        let mut damaged = files.clone();
        damaged.get_mut(name).unwrap()[100..120].fill(0xa5);
        let dir = write(&damaged);
        let opened = SegmentLog::open(dir.path(), &dir.path().join("log"), SETTINGS);
        assert!(
            opened.is_err(),
            "{name:?} was damaged, which was not detected"
        );
        damaged.remove(name);
        let dir = write(&damaged);
        let opened = SegmentLog::open(dir.path(), &dir.path().join("log"), SETTINGS);
        assert!(
            opened.is_err(),
            "{name:?} is missing, which was not detected"
        );
    }
}
