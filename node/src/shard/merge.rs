//! Applies changes of other regions.
//!
//! Invariants:
//! - a merge is applied as a whole, and only if this shard's cursor of its origin is at or past its
//!   `from` and before its `to`; cursor, watermark, records and the shard's last version change
//!   together;
//! - of two versions of a key the greater (time, region) wins; of one version, the tombstone;
//! - a record that isn't above the watermark that its sender has announced changes nothing: a
//!   tombstone that it would meet may be collected already.

use std::io;

use cloudkv_proto::v1 as pb;

use super::peers::is_same_history;
use super::record;
use super::record_change::{ChangeCause, RecordChange};
use super::response::{MergeOutcome, ShardResponse};
use super::rows::is_bucket_name;
use super::state::ShardState;
use crate::store::RowBatch;
use crate::types::{Nanos, Version};

impl ShardState {
    pub(super) fn apply_merges(
        &mut self,
        merges: &pb::Merges,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let mut outcomes = Vec::with_capacity(merges.merges.len());
        for merge in &merges.merges {
            outcomes.push(self.apply_merge(merges.time, merge, batch)?);
        }
        Ok(ShardResponse::Merges(outcomes))
    }

    fn apply_merge(
        &mut self,
        time: Nanos,
        merge: &pb::Merge,
        batch: &mut RowBatch,
    ) -> io::Result<MergeOutcome> {
        let origin = pb::Peer {
            region: merge.origin,
            incarnation: merge.incarnation,
        };
        let mut peers = self.header.peers.iter();
        let Some(at) = peers.position(|peer| is_same_history(peer, &origin)) else {
            return Ok(MergeOutcome {
                is_known: false,
                cursor: 0,
            });
        };
        let before = self.header.peers[at];
        if before.fenced {
            return Ok(MergeOutcome {
                is_known: false,
                cursor: 0,
            });
        }
        let advances = merge.from <= before.cursor && merge.to > before.cursor;
        let is_announcement = merge.from == merge.to && merge.to <= before.cursor;
        if self.header.seeding || !(advances || is_announcement) {
            return Ok(MergeOutcome {
                is_known: true,
                cursor: before.cursor,
            });
        }
        for record in &merge.records {
            self.merge_record(time, record, &before, batch)?;
        }
        let peer = &mut self.header.peers[at];
        peer.cursor = peer.cursor.max(merge.to);
        peer.watermark = peer.watermark.max(merge.watermark);
        peer.stable = peer.stable.max(merge.stable.min(peer.cursor));
        Ok(MergeOutcome {
            is_known: true,
            cursor: peer.cursor,
        })
    }

    fn merge_record(
        &mut self,
        time: Nanos,
        merged: &pb::KeyRecord,
        origin: &pb::PeerState,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        let Some(record) = &merged.record else {
            return Ok(());
        };
        let version = record::version_of(record);
        if version.region == self.header.region || version.time <= origin.watermark {
            self.header.guarded += 1;
            return Ok(());
        }
        self.apply_remote_record(time, merged, record, version, batch)
    }

    /// Applies a record of another region, if it wins.
    pub(super) fn apply_remote_record(
        &mut self,
        time: Nanos,
        merged: &pb::KeyRecord,
        record: &pb::Record,
        version: Version,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        // Also if it loses, or its bucket is dropped: later writes here must have a higher version.
        self.header.last_version = self.header.last_version.max(version.time);
        if !is_bucket_name(&merged.bucket) || self.bucket(&merged.bucket)?.dropped {
            return Ok(());
        }
        let row = self.rows.record(&merged.bucket, &merged.key);
        let old = self.record(&row)?;
        let mut new = pb::Record {
            change: 0,
            ..record.clone()
        };
        let now = time.max(self.header.last_version);
        let mut cause = ChangeCause::Merged;
        if !new.tombstone && !record::is_live(&new, now) {
            new = pb::Record {
                version: new.version,
                source: new.source,
                tombstone: true,
                ..Default::default()
            };
            cause = ChangeCause::MergedExpired;
        }
        if !wins(&new, old.as_ref()) {
            return Ok(());
        }
        let change = RecordChange {
            bucket: &merged.bucket,
            key: &merged.key,
            row,
            old,
            new: Some(new),
            cause,
        };
        self.apply_change(change, batch)
    }
}

/// Returns whether a record replaces another one of the same key.
fn wins(new: &pb::Record, old: Option<&pb::Record>) -> bool {
    let Some(old) = old else { return true };
    let rank = |record: &pb::Record| (record::version_of(record), record.tombstone);
    rank(new) > rank(old)
}
