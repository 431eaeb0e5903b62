//! Digests by which regions compare what they hold.
//!
//! The shard's own digest can't be compared between regions: each region collects tombstones, and
//! turns expired records into tombstones, at its own time. So only live records are scanned, in one
//! view, and summed by ranges of their keys' hashes, which distinguishes a difference from changes
//! that are still in flight.

use cloudkv_common::hash::hash_of;
use cloudkv_proto::v1 as pb;

use super::record;
use super::rows::{for_each_row, read_header};
use super::view::ShardView;
use crate::store::StoreError;
use crate::store::keys::{self, RowKind};
use crate::types::Nanos;

/// Default and maximum number of hash ranges.
pub(crate) const MAX_DIGEST_RANGES: u32 = 256;

/// Digests of a shard's live records, by hash range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeDigests {
    /// Header of the shard in the view that was scanned.
    pub header: pb::ShardHeader,
    /// Order-free sum over the records of each range.
    pub sums: Vec<u64>,
    /// Number of records of each range.
    pub records: Vec<u64>,
}

impl ShardView {
    /// Computes digests over the records that are live at `at`: scans all records, and blocks.
    pub fn range_digests(&self, at: Nanos, ranges: u32) -> Result<RangeDigests, StoreError> {
        let ranges = ranges.clamp(1, MAX_DIGEST_RANGES);
        self.read_consistent(|rows| {
            let db = self.db.db_snapshot();
            let mut digests = RangeDigests {
                header: read_header(&db, rows)?,
                sums: vec![0; ranges as usize],
                records: vec![0; ranges as usize],
            };
            for_each_row(&db, rows, RowKind::Record, |row, value| {
                let record = record::decode(value)?;
                let name = keys::split_record(row);
                if let Some((bucket, key)) = name.filter(|_| record::is_live(&record, at)) {
                    let range = range_of(bucket, key, ranges);
                    let sum = &mut digests.sums[range];
                    *sum = sum.wrapping_add(record::digest(bucket, key, &record));
                    digests.records[range] += 1;
                }
                Ok::<_, StoreError>(())
            })?;
            Ok(digests)
        })
    }
}

/// Returns the range of a key: by the upper half of its hash, since the whole hash selects the
/// shard.
fn range_of(bucket: &[u8], key: &[u8], ranges: u32) -> usize {
    let upper = hash_of(bucket, key) >> 32;
    usize::try_from((upper * u64::from(ranges)) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::test_region::{BUCKET, TestRegion};
    use super::*;

    #[test]
    fn keys_spread_over_all_ranges() {
        let mut counts = [0; 4];
        for key in 0..4000_u32 {
            counts[range_of(BUCKET, &key.to_be_bytes(), 4)] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn excludes_tombstones_and_expired_records_and_detects_a_changed_value() {
        let region = |values: &[(u8, &str, u64)]| {
            let mut region = TestRegion::new(1, false);
            region.set_peers(
                1,
                vec![pb::Peer {
                    region: 2,
                    incarnation: 102,
                }],
            );
            for (key, value, ttl) in values {
                region.put(*key, value, *ttl);
            }
            region
        };
        let mut one = region(&[(1, "a", 0), (2, "b", 50), (3, "c", 0)]);
        let (before, now) = (one.view().range_digests(10, 16).unwrap(), one.clock);
        assert_eq!(before.records.iter().sum::<u64>(), 3);
        one.expire(now + 1000);
        let later = one.view().range_digests(now + 1000, 16).unwrap();
        assert_eq!(later.records.iter().sum::<u64>(), 2);
        // A record that became a tombstone counts like one that is only due to expire.
        let due = region(&[(1, "a", 0), (2, "b", 50), (3, "c", 0)]);
        let due = due.view().range_digests(now + 1000, 16).unwrap();
        assert_eq!(due.sums, later.sums);
        let other = region(&[(1, "a", 0), (2, "b", 50), (3, "x", 0)]);
        let other = other.view().range_digests(now + 1000, 16).unwrap();
        let differ = other.sums.iter().zip(&later.sums);
        assert_eq!(differ.filter(|(a, b)| a != b).count(), 1);
    }
}
