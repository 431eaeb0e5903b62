//! Rows removed for good, and the files given back that held nothing else.
//!
//! A file goes with all that is in it: with rows, but also with the range deletion itself, once
//! compaction has brought that into a file of its own. Rows that it covered and that survive in a
//! file that lies only partly in the range would then be there again. So the range is deleted once
//! more after its files have gone.
//!
//! Invariant: whoever reads sees no row of a range that was removed, nor after a crash at any line.
//! - Before the files go, the range is deleted in the write buffer, where no file's going takes it.
//! - Files go at once and for good, what is written after them only with the next flush. So a row
//!   that names the range is durable before they go, and goes in the batch of the last deletion.
//!   Whoever opens the database deletes again what such a row names, before anybody reads. What was
//!   written into the range later was written after that batch, so whatever a crash leaves has
//!   either this row or that.

use std::ops::ControlFlow;

use super::error::StoreError;
use super::keys;
use super::state::{Batch, Scan, StateDb};

/// The first key of a range, and its end, exclusive.
pub type Range = (Vec<u8>, Vec<u8>);

impl StateDb {
    /// Removes all rows in ranges whose rows are of no use to anybody any more, and gives back the
    /// files that lie wholly in them. Flushes, and blocks for that. Durable with the next flush;
    /// until then a crash is followed by the same removal.
    pub fn remove_for_good(&self, ranges: &[Range]) -> Result<(), StoreError> {
        if ranges.is_empty() {
            return Ok(());
        }
        let _alone = self.removing().lock();
        self.announce(ranges)?;
        self.write(deletion(ranges))?;
        for (from, to) in ranges {
            self.drop_files(from, to)?;
        }
        self.write(last_deletion(ranges))
    }

    /// Makes durable that these ranges are being removed.
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

    /// Removes what was being removed when the process ended.
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

/// Deletes the ranges, and the rows that say that they are being removed.
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

    /// Rows whose files reach beyond a range, and the range's deletion in a file of its own that
    /// lies higher.
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
    fn rows_whose_deletion_went_with_its_file_do_not_come_back() {
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
    fn a_removal_that_a_crash_cut_off_is_finished_before_anybody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        let range = deleted_above_its_rows(&engine.state);
        engine.state.announce(std::slice::from_ref(&range)).unwrap();
        engine.state.drop_files(&range.0, &range.1).unwrap();
        assert_ne!(
            rows_between(&engine.state, &range),
            0,
            "its files have gone"
        );
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(rows_between(&engine.state, &range), 0);
        assert_eq!(rows_between(&engine.state, &keys::removals()), 0);
        // What is written there later stays.
        let mut batch = Batch::default();
        batch.put(row(1001), b"later");
        engine.state.write(batch).unwrap();
        drop(engine);
        let engine = small_engine(dir.path());
        assert_eq!(rows_between(&engine.state, &range), 1);
    }
}
