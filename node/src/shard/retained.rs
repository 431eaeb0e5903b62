//! Changes retained for regions that lack them, and tombstones that an older write could still
//! meet. `record_change` adds both; here they are removed.
//!
//! Invariants:
//! - the change index has one entry for each key that this region has changed beyond the position
//!   that all other regions have acknowledged, at the position of the key's last change in this
//!   region's history; positions rise with the versions of those changes;
//! - an entry is removed when every other region has acknowledged its position, or when a local
//!   write has replaced it with another one. It stays when a merge wins over its record: the
//!   winning record is sent instead. (Were it dropped, the watermark would claim a change of which
//!   a third region has received neither the record itself nor the winner.)
//! - a tombstone is removed when nothing older than it can arrive any more: all regions have it,
//!   and every other region has announced a watermark that reaches its version.

use std::io;
use std::ops::ControlFlow;

use cloudkv_proto::v1 as pb;

use super::peers::{acknowledged_by_all, is_same_history, lowest_watermark};
use super::record;
use super::record_change::{ChangeCause, RecordChange};
use super::response::ShardResponse;
use super::rows::{decode_change, is_bucket_name};
use super::state::ShardState;
use crate::store::{RowBatch, Scan, StoreError, blocking};

impl ShardState {
    /// Sets the list of other regions. A new region has nothing yet: all changes still retained are
    /// retained for it, too; all others it gets when it is seeded from one of the others.
    pub(super) fn apply_set_peers(
        &mut self,
        set: &pb::SetPeers,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        if set.epoch <= self.header.peers_epoch {
            return Ok(ShardResponse::Done);
        }
        let acknowledged = acknowledged_by_all(&self.header);
        let mut peers = Vec::new();
        for peer in &set.peers {
            let known = self
                .header
                .peers
                .iter()
                .find(|known| is_same_history(known, peer));
            peers.push(known.copied().unwrap_or(pb::PeerState {
                region: peer.region,
                incarnation: peer.incarnation,
                acknowledged,
                ..Default::default()
            }));
        }
        self.header.peers = peers;
        self.header.peers_epoch = set.epoch;
        self.trim_change_index(acknowledged, batch)?;
        Ok(ShardResponse::Done)
    }

    pub(super) fn apply_acknowledge(
        &mut self,
        acknowledge: &pb::Acknowledge,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let before = acknowledged_by_all(&self.header);
        let last = self.header.change_last;
        for ack in &acknowledge.peers {
            let named = pb::Peer {
                region: ack.region,
                incarnation: ack.incarnation,
            };
            let mut peers = self.header.peers.iter_mut();
            if let Some(peer) = peers.find(|peer| is_same_history(peer, &named)) {
                peer.acknowledged = peer.acknowledged.max(ack.position.min(last));
            }
        }
        self.trim_change_index(before, batch)?;
        Ok(ShardResponse::Done)
    }

    /// Removes the entries of the change index that every region has acknowledged by now.
    fn trim_change_index(&mut self, before: u64, batch: &mut RowBatch) -> io::Result<()> {
        let upto = acknowledged_by_all(&self.header);
        if upto <= before {
            return Ok(());
        }
        let scan = Scan {
            from: self.rows.change(before + 1),
            to: self.rows.change(upto + 1),
            fill_cache: true,
        };
        let (mut count, mut bytes) = (0, 0);
        blocking(|| {
            self.db.try_scan(scan, |row, value| {
                let entry = decode_change(value)?;
                count += 1;
                bytes += entry.bytes;
                batch.delete(row);
                Ok::<_, StoreError>(ControlFlow::Continue(()))
            })
        })?;
        self.header.retained_changes = self.header.retained_changes.saturating_sub(count);
        self.header.retained_bytes = self.header.retained_bytes.saturating_sub(bytes);
        self.header.change_low = upto + 1;
        Ok(())
    }

    pub(super) fn apply_collect(
        &mut self,
        collect: &pb::Collect,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        for named in &collect.tombstones {
            if !is_bucket_name(&named.bucket) {
                continue;
            }
            let row = self.rows.record(&named.bucket, &named.key);
            match self.record(&row)? {
                Some(old) if old.tombstone && old.version == named.version => {
                    if is_collectable(&self.header, &old) {
                        let change = RecordChange {
                            bucket: &named.bucket,
                            key: &named.key,
                            row,
                            old: Some(old),
                            new: None,
                            cause: ChangeCause::Merged,
                        };
                        self.apply_change(change, batch)?;
                    }
                }
                // The bucket was dropped, or the index row is stale: only the index has it.
                _ => {
                    let time = named.version.map_or(0, |version| version.time);
                    let current = self.record(&row)?;
                    let is_current = |record: pb::Record| {
                        record.tombstone && record::version_of(&record).time == time
                    };
                    if !current.is_some_and(is_current) {
                        batch.delete(self.rows.tombstone(time, &named.bucket, &named.key));
                    }
                }
            }
        }
        Ok(ShardResponse::Done)
    }
}

/// Returns whether a tombstone can be collected: no older write can arrive from any region.
pub(super) fn is_collectable(header: &pb::ShardHeader, tombstone: &pb::Record) -> bool {
    if header.seeding {
        return false;
    }
    let version = record::version_of(tombstone);
    let all_have_it = if version.region == header.region {
        tombstone.change <= acknowledged_by_all(header)
    } else {
        // Writes of a removed region were all reconciled.
        let mut peers = header.peers.iter();
        let origin = peers.find(|peer| peer.region == version.region);
        origin.is_none_or(|origin| tombstone.source <= origin.stable)
    };
    all_have_it && version.time <= lowest_watermark(header)
}
