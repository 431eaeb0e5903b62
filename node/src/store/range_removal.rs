//! Removes key ranges, and deletes the files that contain nothing else.
//!
//! A deleted file takes everything in it along: rows, but also the range tombstone itself, once
//! compaction has moved that into a file of its own. Rows that it covered, in a file that lies only
//! partly in the range, would then reappear. So the range is deleted once more after its files were
//! deleted.
//!
//! Invariant: no reader sees a row of a removed range, nor after a crash at any line.
//! - Before the files are deleted, the range is deleted in the memtable, which no deletion of a
//!   file affects.
//! - Deletions of files are durable immediately, later writes only with the next flush. So a marker
//!   row that names the range is durable before the files are deleted, and is deleted in the batch
//!   of the last range deletion. Opening the database deletes the ranges of such rows again, before
//!   the first read. Later writes into the range come after that batch, so a state that a crash
//!   leaves never contains both the marker row and a later write.

use std::ops::ControlFlow;

use super::error::StoreError;
use super::keys;
use super::scan::Scan;
use super::state::{RowBatch, StateDb};

/// First key of a range, and its end, exclusive.
pub(super) type KeyRange = (Vec<u8>, Vec<u8>);

impl StateDb {
    /// Removes all rows in ranges that nobody uses any more, and deletes the files that lie
    /// entirely in them. Flushes, and blocks for that. Durable with the next flush; after a crash
    /// before that the removal is repeated.
    pub fn remove_ranges(&self, ranges: &[KeyRange]) -> Result<(), StoreError> {
        if ranges.is_empty() {
            return Ok(());
        }
        let _guard = self.removal_lock().lock();
        self.mark_removals(ranges)?;
        self.write(range_deletions(ranges))?;
        for (from, to) in ranges {
            self.delete_files(from, to)?;
        }
        self.write(final_deletions(ranges))
    }

    /// Writes and flushes the rows that mark these ranges as being removed.
    fn mark_removals(&self, ranges: &[KeyRange]) -> Result<(), StoreError> {
        let mut batch = RowBatch::default();
        for (from, to) in ranges {
            batch.put(keys::removal_key(from, to), b"");
        }
        self.write(batch)?;
        self.flush()
    }

    fn delete_files(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.db()
            .delete_file_in_range(from, to)
            .map_err(StoreError::on("remove", "state files"))
    }

    /// Finishes the removals that were in progress when the process ended.
    pub(super) fn finish_removals(&self) -> Result<(), StoreError> {
        let (from, to) = keys::removal_keys();
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        let mut ranges: Vec<KeyRange> = Vec::new();
        self.scan(scan, |row, _| {
            let range = keys::parse_removal_key(row);
            ranges.extend(range.map(|(from, to)| (from.to_vec(), to.to_vec())));
            ControlFlow::Continue(())
        })?;
        if ranges.is_empty() {
            return Ok(());
        }
        self.write(final_deletions(&ranges))
    }
}

fn range_deletions(ranges: &[KeyRange]) -> RowBatch {
    let mut batch = RowBatch::default();
    for (from, to) in ranges {
        batch.delete_range(from, to);
    }
    batch
}

/// Builds the batch that deletes the ranges, and the rows that mark them as being removed.
fn final_deletions(ranges: &[KeyRange]) -> RowBatch {
    let mut batch = range_deletions(ranges);
    for (from, to) in ranges {
        batch.delete(keys::removal_key(from, to));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{LevelFixture, small_engine};

    fn row(number: u32) -> Vec<u8> {
        format!("row-{number:06}").into_bytes()
    }

    fn count_rows(state: &StateDb, (from, to): &KeyRange) -> usize {
        let scan = Scan {
            from: from.clone(),
            to: to.clone(),
            fill_cache: false,
        };
        let mut rows = 0;
        let count = |_: &[u8], _: &[u8]| {
            rows += 1;
            ControlFlow::Continue(())
        };
        state.scan(scan, count).unwrap();
        rows
    }

    /// Writes rows whose files extend beyond a range, and the range's tombstone in a file of its
    /// own on a higher level.
    fn write_deleted_range(state: &StateDb) -> KeyRange {
        let sorted = LevelFixture::new(state);
        let rows = (0..4000).map(row).collect::<Vec<_>>();
        sorted.write_to_last_level(rows.iter().map(|row| &row[..]));
        let range = (row(1001), row(1003));
        state
            .write(range_deletions(std::slice::from_ref(&range)))
            .unwrap();
        sorted.flush_above_last_level();
        assert_eq!(count_rows(state, &range), 0);
        range
    }

    #[test]
    fn rows_do_not_reappear_when_their_range_tombstone_is_deleted_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = small_engine(dir.path()).state;
        let range = write_deleted_range(&state);
        state.remove_ranges(std::slice::from_ref(&range)).unwrap();
        assert_eq!(count_rows(&state, &range), 0);
        assert_eq!(count_rows(&state, &(row(0), row(9999))), 3998);
        state.flush().unwrap();
        assert_eq!(count_rows(&state, &range), 0);
    }

    #[test]
    fn a_removal_interrupted_by_a_crash_is_finished_before_the_first_read() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        let range = write_deleted_range(&engine.state);
        engine
            .state
            .mark_removals(std::slice::from_ref(&range))
            .unwrap();
        engine.state.delete_files(&range.0, &range.1).unwrap();
        assert_ne!(
            count_rows(&engine.state, &range),
            0,
            "the range tombstone was deleted with its file"
        );
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(count_rows(&engine.state, &range), 0);
        assert_eq!(count_rows(&engine.state, &keys::removal_keys()), 0);
        // Later writes into the range stay.
        let mut batch = RowBatch::default();
        batch.put(row(1001), b"later");
        engine.state.write(batch).unwrap();
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(count_rows(&engine.state, &range), 1);
    }
}
