//! The metadata of a backup, in parts.
//!
//! A part is built when it is asked for: beside the catalog, only the rows of accounts, references
//! to the buckets and one part are in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::part::PART_BYTES;
use crate::meta::{Bucket, Catalog};
use crate::types::AccountId;

/// Size of a row in a part beside its encoding, in bytes: its tag and length.
const ROW_OVERHEAD_BYTES: usize = 8;

/// Part of the metadata, and the number of rows in it.
pub(super) type MetadataPart = (pb::BackupMetadata, u64);

/// Iterator over the parts of the metadata. Plans and accounts come before what refers to them.
pub(super) struct MetadataParts {
    plans: IntoIter<pb::PlanLimits>,
    accounts: IntoIter<(AccountId, pb::Account)>,
    buckets: IntoIter<Arc<Bucket>>,
    /// Number of buckets of each account that has any.
    counts: HashMap<AccountId, u32>,
    /// Size at which a part ends.
    part_bytes: usize,
}

/// Reads all accounts, buckets and plans, as this node has them, but for buckets that are being
/// deleted. Accounts count the buckets that are in the backup.
pub(super) fn metadata_parts(catalog: &Catalog) -> MetadataParts {
    let plans = catalog.plan_rows();
    // Before the accounts: that of each bucket is there then.
    let buckets = catalog.buckets_where(|bucket| !bucket.is_dropping);
    MetadataParts::new(plans, catalog.account_rows(), buckets, PART_BYTES)
}

impl MetadataParts {
    fn new(
        plans: Vec<pb::PlanLimits>,
        accounts: Vec<(AccountId, pb::Account)>,
        buckets: Vec<Arc<Bucket>>,
        part_bytes: usize,
    ) -> Self {
        let mut counts = HashMap::<_, u32>::new();
        for bucket in &buckets {
            *counts.entry(bucket.owner).or_default() += 1;
        }
        Self {
            plans: plans.into_iter(),
            accounts: accounts.into_iter(),
            buckets: buckets.into_iter(),
            counts,
            part_bytes,
        }
    }

    /// Moves the next row to a part. Returns its size; `None` if there is none.
    fn move_row(&mut self, part: &mut pb::BackupMetadata) -> Option<usize> {
        if let Some(limits) = self.plans.next() {
            let bytes = limits.encoded_len();
            part.plans.push(limits);
            return Some(bytes);
        }
        if let Some((id, row)) = self.accounts.next() {
            let account = pb::Account {
                buckets: self.counts.get(&id).copied().unwrap_or(0),
                ..row
            };
            let restored = pb::RestoredAccount {
                id: Bytes::copy_from_slice(&id.0),
                account: Some(account),
            };
            let bytes = restored.encoded_len();
            part.accounts.push(restored);
            return Some(bytes);
        }
        let bucket = self.buckets.next()?;
        let restored = pb::RestoredBucket {
            id: Bytes::copy_from_slice(bucket.id.as_bytes()),
            bucket: Some(bucket.to_pb()),
        };
        let bytes = restored.encoded_len();
        part.buckets.push(restored);
        Some(bytes)
    }
}

impl Iterator for MetadataParts {
    type Item = MetadataPart;

    fn next(&mut self) -> Option<MetadataPart> {
        let (mut part, mut rows, mut bytes) = (pb::BackupMetadata::default(), 0, 0);
        while bytes < self.part_bytes {
            let Some(row_bytes) = self.move_row(&mut part) else {
                break;
            };
            rows += 1;
            bytes += row_bytes + ROW_OVERHEAD_BYTES;
        }
        (rows > 0).then_some((part, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{BucketLimits, default_plans};
    use crate::types::{Access, BucketId, Plan};

    /// Size of the parts here.
    const SMALL_PART_BYTES: usize = 1000;

    fn account(number: u8) -> (AccountId, pb::Account) {
        let row = pb::Account {
            created_at: 5,
            empty_since: 0,
            // Replaced by the number of buckets in the backup.
            buckets: 99,
        };
        (AccountId([number; 32]), row)
    }

    fn bucket(number: u8, owner: u8) -> Arc<Bucket> {
        Arc::new(Bucket {
            id: BucketId::parse(format!("a{number:013}").as_bytes()).unwrap(),
            owner: AccountId([owner; 32]),
            access: Access::Public,
            plan: Plan::Free,
            limits: Arc::new(BucketLimits {
                keys: 10,
                key_bytes: 64,
                value_bytes: 4096,
                bytes: None,
            }),
            comment: Some("comment".to_owned()),
            default_ttl: None,
            created_at: 6,
            is_dropping: false,
            dropped_in: Vec::new(),
            usage: Arc::default(),
        })
    }

    #[test]
    fn parts_have_all_rows_once_and_are_bounded() {
        let accounts = (0..50).map(account).collect();
        // Five of each of the accounts 0 to 9.
        let buckets = (0..50).map(|number| bucket(number, number % 10)).collect();
        let parts = MetadataParts::new(default_plans(), accounts, buckets, SMALL_PART_BYTES);
        let parts: Vec<MetadataPart> = parts.collect();
        assert!(parts.len() > 2, "{}", parts.len());
        let mut all = pb::BackupMetadata::default();
        for (part, rows) in parts {
            let counted = part.plans.len() + part.accounts.len() + part.buckets.len();
            assert_eq!(rows, counted as u64);
            // The row with which a part ends may exceed its size.
            assert!(part.encoded_len() < SMALL_PART_BYTES + 200, "{part:?}");
            all.plans.extend(part.plans);
            all.accounts.extend(part.accounts);
            all.buckets.extend(part.buckets);
        }
        assert_eq!(all.plans, default_plans());
        assert_eq!((all.accounts.len(), all.buckets.len()), (50, 50));
        for (number, restored) in (0_u8..).zip(&all.accounts) {
            assert_eq!(&restored.id[..], &[number; 32][..]);
            let buckets = restored.account.map(|row| row.buckets);
            assert_eq!(buckets, Some(if number < 10 { 5 } else { 0 }));
        }
        for (number, restored) in (0_u8..).zip(&all.buckets) {
            let expected = bucket(number, number % 10);
            assert_eq!(&restored.id[..], &expected.id.as_bytes()[..]);
            assert_eq!(restored.bucket, Some(expected.to_pb()));
        }
    }

    #[test]
    fn a_cluster_without_rows_has_no_part() {
        let mut parts = MetadataParts::new(Vec::new(), Vec::new(), Vec::new(), SMALL_PART_BYTES);
        assert_eq!(parts.next(), None);
    }
}
