//! The metadata of a backup, in parts.

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::part::PART_BYTES;
use crate::meta::Catalog;

/// Part of the metadata, and the number of rows in it.
pub(super) type MetadataPart = (pb::BackupMetadata, u64);

/// Builds the parts of all accounts, buckets and plans, as this node has them, but for buckets that
/// are being deleted. Accounts count the buckets that are in the backup.
pub(super) fn metadata_parts(catalog: &Catalog) -> Vec<MetadataPart> {
    let mut parts = PartBuilder::default();
    for limits in catalog.plan_rows() {
        parts.add(limits.encoded_len(), |part| part.plans.push(limits));
    }
    // Before the accounts: that of each bucket is there then.
    let buckets = catalog.buckets_where(|bucket| !bucket.is_dropping);
    let accounts = catalog.account_rows();
    let mut counts = std::collections::HashMap::<_, u32>::new();
    for bucket in &buckets {
        *counts.entry(bucket.owner).or_default() += 1;
    }
    for (id, row) in accounts {
        let account = pb::Account {
            buckets: counts.get(&id).copied().unwrap_or(0),
            ..row
        };
        let restored = pb::RestoredAccount {
            id: Bytes::copy_from_slice(&id.0),
            account: Some(account),
        };
        parts.add(restored.encoded_len(), |part| part.accounts.push(restored));
    }
    for bucket in buckets {
        let restored = pb::RestoredBucket {
            id: Bytes::copy_from_slice(bucket.id.as_bytes()),
            bucket: Some(bucket.to_pb()),
        };
        parts.add(restored.encoded_len(), |part| part.buckets.push(restored));
    }
    parts.finish()
}

#[derive(Default)]
struct PartBuilder {
    parts: Vec<MetadataPart>,
    part: pb::BackupMetadata,
    rows: u64,
    bytes: usize,
}

impl PartBuilder {
    /// Adds a row of so many bytes.
    fn add(&mut self, bytes: usize, add: impl FnOnce(&mut pb::BackupMetadata)) {
        if self.bytes >= PART_BYTES {
            self.end_part();
        }
        add(&mut self.part);
        self.rows += 1;
        // Tag and length of the row are counted, too.
        self.bytes += bytes + 8;
    }

    fn end_part(&mut self) {
        let part = std::mem::take(&mut self.part);
        self.parts.push((part, std::mem::take(&mut self.rows)));
        self.bytes = 0;
    }

    fn finish(mut self) -> Vec<MetadataPart> {
        if self.rows > 0 {
            self.end_part();
        }
        self.parts
    }
}
