//! Pages of lists: a bucket's live keys and their common prefixes, in either order.
//!
//! Invariant: of the query's range, a page has all entries from its beginning to its end: its last
//! entry, or the key behind which it resumes. Keys below a common prefix that is listed are skipped
//! by one seek, however many they are.
//!
//! A page with a bound on its rows ends early where it meets that many, as among tombstones that
//! other regions have yet to acknowledge. It may have no entry then, and still not be the last.

use bytes::Bytes;

use super::list_position::ListPosition;
use super::listed_record::decode_without_value;
use super::record;
use super::view::ShardView;
use crate::raft::applied_index;
use crate::store::keys::{self, Rows};
use crate::store::{Scan, ScanOrder, ScanStep, StoreError};
use crate::types::{KeyInfo, ListEntry, ListQuery, Nanos};

/// Page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and common prefixes, in the query's order.
    pub entries: Vec<ListEntry>,
    /// True if there may be more behind them.
    pub has_more: bool,
    /// Key behind which the list goes on, if the page ended early; else it goes on behind the last
    /// entry.
    pub resume: Option<Bytes>,
    /// Index of the last entry whose effects the page's view has, if the query asks for it; else 0.
    pub applied_index: u64,
}

impl Page {
    /// Returns the position behind which the list goes on; `None` at its end.
    pub fn next_position(&self) -> Option<ListPosition> {
        if !self.has_more {
            return None;
        }
        match &self.resume {
            Some(key) => Some(ListPosition::Key(key.clone())),
            None => self.entries.last().map(ListPosition::behind),
        }
    }

    /// Returns the keys, without the common prefixes.
    #[cfg(test)]
    pub(super) fn into_keys(self) -> impl Iterator<Item = KeyInfo> {
        self.entries.into_iter().filter_map(|entry| match entry {
            ListEntry::Key(info) => Some(info),
            ListEntry::Prefix(_) => None,
        })
    }
}

impl ShardView {
    /// Reads a page of a bucket's list: blocks for the disk.
    pub fn page(&self, bucket: &[u8], query: &ListQuery, now: Nanos) -> Result<Page, StoreError> {
        self.read_consistent(|rows| self.read_page(rows, bucket, query, self.read_time(now)))
    }

    fn read_page(
        &self,
        rows: Rows,
        bucket: &[u8],
        query: &ListQuery,
        now: Nanos,
    ) -> Result<Page, StoreError> {
        let (from, to) = range_of(rows, bucket, query);
        let scan = Scan {
            from,
            to,
            fill_cache: true,
        };
        let is_empty = scan.from >= scan.to;
        let mut reader = PageReader {
            rows,
            bucket,
            query,
            now,
            page: Page::default(),
            scanned_rows: 0,
            value_bytes: 0,
        };
        let order = reader.order();
        if query.with_index {
            let db = self.db.db_snapshot();
            reader.page.applied_index = applied_index(&db, rows)?;
            if !is_empty {
                db.seek_scan(&scan, order, |row, record| reader.read_row(row, record))?;
            }
        } else if !is_empty {
            self.db
                .seek_scan(&scan, order, |row, record| reader.read_row(row, record))?;
        }
        Ok(reader.page)
    }
}

/// Returns the first row of a query's range, and its end, exclusive.
fn range_of(rows: Rows, bucket: &[u8], query: &ListQuery) -> (Vec<u8>, Vec<u8>) {
    let prefix = rows.record(bucket, &query.prefix);
    let prefix_end = keys::prefix_end(&prefix);
    let from = match &query.from {
        Some(from) => rows.record(bucket, from).max(prefix),
        None => prefix,
    };
    let to = match &query.to {
        Some(to) => rows.record(bucket, to).min(prefix_end),
        None => prefix_end,
    };
    (from, to)
}

/// Reader of one page.
struct PageReader<'a> {
    rows: Rows,
    bucket: &'a [u8],
    query: &'a ListQuery,
    now: Nanos,
    page: Page,
    scanned_rows: usize,
    /// Size of the listed values, in bytes.
    value_bytes: usize,
}

impl PageReader<'_> {
    fn order(&self) -> ScanOrder {
        if self.query.is_reverse {
            ScanOrder::Descending
        } else {
            ScanOrder::Ascending
        }
    }

    /// Reads a row, and lists its key or common prefix if it is live.
    fn read_row(&mut self, row: &[u8], record: &[u8]) -> Result<ScanStep, StoreError> {
        let Some((_, key)) = keys::split_record(row) else {
            return Err(StoreError::corrupt("record", "its row key is too short"));
        };
        let (record, value) = decode_without_value(record)?;
        self.scanned_rows += 1;
        if !record::is_live(&record, self.now) {
            let max_rows = self.query.max_rows;
            if max_rows.is_none_or(|max_rows| self.scanned_rows < max_rows) {
                return Ok(ScanStep::Next);
            }
            self.page.resume = Some(Bytes::copy_from_slice(key));
            return Ok(self.end_with_more());
        }
        if self.page.entries.len() >= self.query.limit {
            return Ok(self.end_with_more());
        }
        if let Some(prefix) = self.query.common_prefix(key) {
            let entry = ListEntry::Prefix(Bytes::copy_from_slice(prefix));
            self.page.entries.push(entry);
            let below = self.rows.record(self.bucket, prefix);
            return Ok(ScanStep::Seek(match self.order() {
                ScanOrder::Ascending => keys::prefix_end(&below),
                ScanOrder::Descending => below,
            }));
        }
        if self.query.with_values && !self.admit_value(value.len()) {
            return Ok(self.end_with_more());
        }
        self.page.entries.push(ListEntry::Key(KeyInfo {
            key: Bytes::copy_from_slice(key),
            size: value.len() as u64,
            version: record::version_of(&record),
            expires_at: record::expiry_of(&record),
            content_type: record.content_type,
            metadata: record.metadata,
            value: self
                .query
                .with_values
                .then(|| Bytes::copy_from_slice(value)),
        }));
        Ok(ScanStep::Next)
    }

    /// Returns whether a value of this size may be listed. A page has one entry in any case.
    fn admit_value(&mut self, bytes: usize) -> bool {
        self.value_bytes += bytes;
        self.page.entries.is_empty() || self.value_bytes <= self.query.max_value_bytes
    }

    fn end_with_more(&mut self) -> ScanStep {
        self.page.has_more = true;
        ScanStep::End
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
