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
use super::state::{Batch, Scan, StateDb};

/// First key of a range, and its end, exclusive.
pub type Range = (Vec<u8>, Vec<u8>);

impl StateDb {
    /// Removes all rows in ranges that nobody uses any more, and deletes the files that lie
    /// entirely in them. Flushes, and blocks for that. Durable with the next flush; after a crash
    /// before that the removal is repeated.
    pub fn remove_for_good(&self, ranges: &[Range]) -> Result<(), StoreError> {
        if ranges.is_empty() {
            return Ok(());
        }
        let _guard = self.removing().lock();
        self.announce(ranges)?;
        self.write(deletion(ranges))?;
        for (from, to) in ranges {
            self.drop_files(from, to)?;
        }
        self.write(last_deletion(ranges))
    }

    /// Writes and flushes the rows that mark these ranges as being removed.
    fn announce(&self, ranges: &[Range]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (from, to) in ranges {
            batch.put(keys::removal(from, to), b"");
        }
        self.write(batch)?;
        self.flush()
    }

    fn drop_files(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.db()
            .delete_file_in_range(from, to)
            .map_err(StoreError::on("remove", "state files"))
    }

    /// Finishes the removals that were in progress when the process ended.
    pub(super) fn finish_removals(&self) -> Result<(), StoreError> {
        let (from, to) = keys::removals();
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        let mut ranges: Vec<Range> = Vec::new();
        self.scan(scan, |row, _| {
            let range = keys::parse_removal(row);
            ranges.extend(range.map(|(from, to)| (from.to_vec(), to.to_vec())));
            ControlFlow::Continue(())
        })?;
        if ranges.is_empty() {
            return Ok(());
        }
        self.write(last_deletion(&ranges))
    }
}

fn deletion(ranges: &[Range]) -> Batch {
    let mut batch = Batch::default();
    for (from, to) in ranges {
        batch.delete_range(from, to);
    }
    batch
}

/// Builds the batch that deletes the ranges, and the rows that mark them as being removed.
fn last_deletion(ranges: &[Range]) -> Batch {
    let mut batch = deletion(ranges);
    for (from, to) in ranges {
        batch.delete(keys::removal(from, to));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Sorted, small_engine};

    fn row(number: u32) -> Vec<u8> {
        format!("row-{number:06}").into_bytes()
    }

    fn rows_between(state: &StateDb, (from, to): &Range) -> usize {
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
    fn deleted_above_its_rows(state: &StateDb) -> Range {
        let sorted = Sorted::new(state);
        let rows = (0..4000).map(row).collect::<Vec<_>>();
        sorted.rows_at_the_bottom(rows.iter().map(|row| &row[..]));
        let range = (row(1001), row(1003));
        state.write(deletion(std::slice::from_ref(&range))).unwrap();
        sorted.newest_into_a_file_above();
        assert_eq!(rows_between(state, &range), 0);
        range
    }

    #[test]
    fn rows_do_not_reappear_when_their_range_tombstone_is_deleted_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = small_engine(dir.path()).state;
        let range = deleted_above_its_rows(&state);
        state.remove_for_good(std::slice::from_ref(&range)).unwrap();
        assert_eq!(rows_between(&state, &range), 0);
        assert_eq!(rows_between(&state, &(row(0), row(9999))), 3998);
        state.flush().unwrap();
        assert_eq!(rows_between(&state, &range), 0);
    }

    #[test]
    fn a_removal_interrupted_by_a_crash_is_finished_before_the_first_read() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        let range = deleted_above_its_rows(&engine.state);
        engine.state.announce(std::slice::from_ref(&range)).unwrap();
        engine.state.drop_files(&range.0, &range.1).unwrap();
        assert_ne!(
            rows_between(&engine.state, &range),
            0,
            "the range tombstone was deleted with its file"
        );
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(rows_between(&engine.state, &range), 0);
        assert_eq!(rows_between(&engine.state, &keys::removals()), 0);
        // Later writes into the range stay.
        let mut batch = Batch::default();
        batch.put(row(1001), b"later");
        engine.state.write(batch).unwrap();
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(rows_between(&engine.state, &range), 1);
    }
}
