//! Records the changes that readers see, for those who follow them: see `recent_changes`.
//!
//! A key is visible while it has a record that is no tombstone. One that has expired stays visible
//! until an entry removes it, which is the change that is told.

use cloudkv_proto::v1 as pb;

use super::record;
use super::record_change::{ChangeCause, RecordChange};
use super::remembered_change::RememberedChange;
use super::state::ShardState;
use crate::types::{BucketId, Version};

impl ShardState {
    /// Records a change of a record, if readers see it.
    pub(super) fn record_visible_change(&mut self, change: &RecordChange<'_>) {
        let Some(bucket) = self.recorded_bucket(change.bucket) else {
            return;
        };
        let visible = match (&change.old, &change.new) {
            (_, Some(new)) if !new.tombstone => RememberedChange::put(bucket, change.key, new),
            (Some(old), new) if !old.tombstone => {
                let version = match (new, change.cause) {
                    (Some(tombstone), _) => record::version_of(tombstone),
                    (None, ChangeCause::Written) => self.written_version(),
                    (None, _) => record::version_of(old),
                };
                if is_expiry(change.cause, version, old) {
                    RememberedChange::expired(bucket, change.key, version)
                } else {
                    RememberedChange::deleted(bucket, change.key, version)
                }
            }
            _ => return,
        };
        self.pending_changes.push(visible);
    }

    /// Records that a bucket was dropped.
    pub(super) fn record_dropped_bucket(&mut self, id: &[u8]) {
        if let Some(bucket) = self.recorded_bucket(id) {
            let dropped = RememberedChange::bucket_dropped(bucket);
            self.pending_changes.push(dropped);
        }
    }

    /// Parses the bucket of a change; `None` if the change isn't recorded. While the shard is
    /// seeded it serves nobody, and the memory begins behind that.
    fn recorded_bucket(&mut self, id: &[u8]) -> Option<BucketId> {
        if self.header.seeding {
            self.pending_changes.omit();
        }
        let is_recorded = self.pending_changes.is_recording();
        is_recorded.then(|| BucketId::parse(id)).flatten()
    }

    /// Version of the write that is being applied.
    fn written_version(&self) -> Version {
        Version {
            time: self.header.last_version,
            region: self.header.region,
        }
    }
}

/// Returns whether a record was removed since it has expired, here or in another region: there the
/// tombstone keeps the version, which a delete doesn't.
fn is_expiry(cause: ChangeCause, version: Version, old: &pb::Record) -> bool {
    match cause {
        ChangeCause::Written => false,
        ChangeCause::Expired | ChangeCause::MergedExpired => true,
        ChangeCause::Merged => version == record::version_of(old),
    }
}
