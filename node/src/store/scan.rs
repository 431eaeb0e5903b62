//! Scans of rows, in either order, which can skip rows that their reader doesn't need.

use std::ops::ControlFlow;

use rocksdb::{DBRawIterator, ReadOptions};

/// Range of rows to scan.
#[derive(Clone, Debug)]
pub struct Scan {
    /// First key.
    pub from: Vec<u8>,
    /// End, exclusive.
    pub to: Vec<u8>,
    /// True to keep the blocks read in the cache: not for full scans.
    pub fill_cache: bool,
}

/// Order of the rows of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOrder {
    /// From the first key of the range on.
    Ascending,
    /// From the end of the range down.
    Descending,
}

/// Next step of a scan, which its reader decides at each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanStep {
    /// Goes on with the next row.
    Next,
    /// Skips rows: goes on with the first row from this key on; in descending order, with the last
    /// one before this key. It must lie behind the row that was read.
    Seek(Vec<u8>),
    /// Ends the scan.
    End,
}

impl Scan {
    /// Returns the options of an iterator that ascends.
    pub(super) fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.fill_cache(self.fill_cache);
        options.set_iterate_upper_bound(self.to.clone());
        options
    }

    /// Returns the options of an iterator that moves in either direction.
    pub(super) fn bidirectional_options(&self) -> ReadOptions {
        let mut options = self.options();
        options.set_iterate_lower_bound(self.from.clone());
        options
    }
}

/// Reads rows from `from` on until `visit` breaks or fails.
pub(super) fn read_rows<E>(
    rows: &mut DBRawIterator<'_>,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value)?.is_break() {
            break;
        }
        rows.next();
    }
    Ok(())
}

/// Reads the rows of a range in an order until `visit` ends the scan or fails, and skips those that
/// it doesn't need.
pub(super) fn read_rows_with_seeks<E>(
    rows: &mut DBRawIterator<'_>,
    scan: &Scan,
    order: ScanOrder,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ScanStep, E>,
) -> Result<(), E> {
    match order {
        ScanOrder::Ascending => seek(rows, order, &scan.from),
        ScanOrder::Descending => seek(rows, order, &scan.to),
    }
    while let Some((key, value)) = rows.item() {
        match visit(key, value)? {
            ScanStep::Next if order == ScanOrder::Ascending => rows.next(),
            ScanStep::Next => rows.prev(),
            ScanStep::Seek(target) => seek(rows, order, &target),
            ScanStep::End => break,
        }
    }
    Ok(())
}

/// Moves to the first row from `target` on, or to the last one before it.
fn seek(rows: &mut DBRawIterator<'_>, order: ScanOrder, target: &[u8]) {
    match order {
        ScanOrder::Ascending => rows.seek(target),
        ScanOrder::Descending => {
            rows.seek_for_prev(target);
            if rows.key().is_some_and(|key| key >= target) {
                rows.prev();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::small_engine;
    use crate::store::{RowBatch, StateDb, StoreError};

    static ROWS: [&str; 7] = ["a", "b", "b/1", "b/2", "b0", "c", "d"];

    fn scan_of(from: &str, to: &str) -> Scan {
        Scan {
            from: from.into(),
            to: to.into(),
            fill_cache: true,
        }
    }

    /// Returns the rows that a scan reads, at each of which `step` decides.
    fn read(
        state: &StateDb,
        (from, to): (&str, &str),
        order: ScanOrder,
        step: impl Fn(&str) -> ScanStep,
    ) -> Vec<String> {
        let mut read = Vec::new();
        let scanned = state.seek_scan(&scan_of(from, to), order, |key, value| {
            assert_eq!(key, value);
            let key = String::from_utf8(key.to_vec()).unwrap();
            let next = step(&key);
            read.push(key);
            Ok::<_, StoreError>(next)
        });
        scanned.unwrap();
        read
    }

    #[test]
    fn rows_are_read_in_both_orders_skipped_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small_engine(dir.path());
        let state = &engine.state;
        for half in ROWS.chunks(4) {
            let mut batch = RowBatch::default();
            half.iter().for_each(|row| batch.put(row, row));
            state.write(batch).unwrap();
            // So the rows are in a file and in the memtable.
            if half.len() == 4 {
                state.flush().unwrap();
            }
        }
        let (up, down) = (ScanOrder::Ascending, ScanOrder::Descending);
        let all = |_: &str| ScanStep::Next;
        let reversed = |rows: &[&str]| rows.iter().rev().map(ToString::to_string).collect();
        let cases: [(&str, &str, &[&str]); 6] = [
            ("a", "e", &ROWS),
            ("b", "d", &ROWS[1..6]),
            ("b/", "b0", &ROWS[2..4]),
            ("b/11", "b/3", &ROWS[3..4]),
            ("c", "c", &[]),
            ("e", "f", &[]),
        ];
        for (from, to, expected) in cases {
            assert_eq!(read(state, (from, to), up, all), expected, "{from} {to}");
            let expected: Vec<String> = reversed(expected);
            assert_eq!(read(state, (from, to), down, all), expected, "{from} {to}");
        }
        let until_b2 = |key: &str| match key {
            "b/2" => ScanStep::End,
            _ => ScanStep::Next,
        };
        assert_eq!(read(state, ("b", "d"), up, until_b2), &ROWS[1..4]);
        assert_eq!(read(state, ("a", "d"), down, until_b2), ["c", "b0", "b/2"]);
        let skip_up = |key: &str| match key {
            "b" => ScanStep::Seek("b0".into()),
            "b0" => ScanStep::Seek("c1".into()),
            _ => ScanStep::Next,
        };
        assert_eq!(read(state, ("a", "e"), up, skip_up), ["a", "b", "b0", "d"]);
        assert_eq!(read(state, ("a", "d"), up, skip_up), ["a", "b", "b0"]);
        let skip_down = |key: &str| match key {
            "d" => ScanStep::Seek("b0".into()),
            "b/2" => ScanStep::Seek("b".into()),
            _ => ScanStep::Next,
        };
        assert_eq!(read(state, ("a", "e"), down, skip_down), ["d", "b/2", "a"]);
        assert_eq!(read(state, ("b", "e"), down, skip_down), ["d", "b/2"]);
    }
}
