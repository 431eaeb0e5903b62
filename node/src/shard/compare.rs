//! What regions compare to find out whether they hold the same.
//!
//! The shard's own digest doesn't serve for that: tombstones go, and expired records become
//! tombstones, at each region's own time. So live records alone are walked over, in one view, and
//! summed up by ranges of their keys' hashes, so that a difference can be told apart from what is
//! on its way.

use cloudkv_common::hash::hash_of;
use cloudkv_proto::v1 as pb;

use super::outgoing::{each, header};
use super::record;
use super::view::View;
use crate::store::StoreError;
use crate::store::keys::{self, Kind};
use crate::types::Nanos;

/// Ranges of hashes that are asked for, and the most that are.
pub const RANGES: u32 = 256;

/// The live records of a shard, summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Digests {
    /// Where the view stood.
    pub header: pb::ShardHeader,
    /// The order-free sum of the records of each range.
    pub sums: Vec<u64>,
    /// How many there are.
    pub records: Vec<u64>,
}

impl View {
    /// Sums up what doesn't expire by `at`: walks over all records, and blocks.
    pub fn digests(&self, at: Nanos, ranges: u32) -> Result<Digests, StoreError> {
        let ranges = ranges.clamp(1, RANGES);
        self.stable(|rows| {
            let db = self.db.frozen();
            let mut digests = Digests {
                header: header(&db, rows)?,
                sums: vec![0; ranges as usize],
                records: vec![0; ranges as usize],
            };
            each(&db, rows, Kind::Record, |row, value| {
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

/// The range of a key: by its hash's upper half, since the shard is chosen by the whole.
fn range_of(bucket: &[u8], key: &[u8], ranges: u32) -> usize {
    let upper = hash_of(bucket, key) >> 32;
    usize::try_from((upper * u64::from(ranges)) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::merge_bench::{BUCKET, Region};
    use super::*;

    #[test]
    fn every_key_has_one_range() {
        let mut seen = [0; 4];
        for key in 0..4000_u32 {
            seen[range_of(BUCKET, &key.to_be_bytes(), 4)] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
    }

    #[test]
    fn tombstones_and_what_expires_are_left_out_and_a_changed_value_is_seen() {
        let region = |values: &[(u8, &str, u64)]| {
            let mut region = Region::new(1, false);
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
        let (before, now) = (one.view().digests(10, 16).unwrap(), one.clock);
        assert_eq!(before.records.iter().sum::<u64>(), 3);
        one.expire(now + 1000);
        let later = one.view().digests(now + 1000, 16).unwrap();
        assert_eq!(later.records.iter().sum::<u64>(), 2);
        // What has become a tombstone counts as what was only due to.
        let due = region(&[(1, "a", 0), (2, "b", 50), (3, "c", 0)]);
        let due = due.view().digests(now + 1000, 16).unwrap();
        assert_eq!(due.sums, later.sums);
        let other = region(&[(1, "a", 0), (2, "b", 50), (3, "x", 0)]);
        let other = other.view().digests(now + 1000, 16).unwrap();
        let differ = other.sums.iter().zip(&later.sums);
        assert_eq!(differ.filter(|(a, b)| a != b).count(), 1);
    }
}
