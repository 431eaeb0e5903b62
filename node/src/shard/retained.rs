//! Changes retained for regions that lack them, and tombstones that an older write could still
//! meet.
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

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::record;
use super::state::{ShardResponse, ShardState, is_bucket_name};
use super::write::{ChangeCause, RecordChange};
use crate::store::{RowBatch, Scan, StoreError, blocking};
use crate::types::Nanos;

/// Size of a retained change beside its key and value, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 64;

impl ShardState {
    /// Returns the position up to which every other region has this one's changes.
    pub(super) fn acknowledged_by_all(&self) -> u64 {
        let peers = self.header.peers.iter();
        let lowest = peers.map(|peer| peer.acknowledged).min();
        lowest.unwrap_or(self.header.change_last)
    }

    fn is_retained(&self, record: &pb::Record) -> bool {
        record.change > self.acknowledged_by_all()
    }

    /// Adds a change of this region to the change index, and removes the entry that it replaces.
    pub(super) fn index_change(&mut self, change: &mut RecordChange<'_>, batch: &mut RowBatch) {
        let before = change.old.as_ref().filter(|old| self.is_retained(old));
        let before = before.map(|old| (old.change, retained_bytes(change.key, old)));
        let kept = change.cause != ChangeCause::Written && change.new.is_some();
        if let Some((sequence, bytes)) = before {
            self.header.retained_changes = self.header.retained_changes.saturating_sub(1);
            self.header.retained_bytes = self.header.retained_bytes.saturating_sub(bytes);
            if !kept {
                batch.delete(self.rows.change(sequence));
            }
        }
        let Some(new) = change.new.as_mut() else {
            return;
        };
        match (change.cause, before) {
            (ChangeCause::Written, _) if self.header.peers.is_empty() => return,
            (ChangeCause::Written, _) => {
                self.header.change_last += 1;
                new.change = self.header.change_last;
            }
            (ChangeCause::Merged | ChangeCause::Expired, Some((sequence, _))) => {
                new.change = sequence
            }
            (ChangeCause::Merged, None) => {
                new.change = 0;
                return;
            }
            // It keeps its position, which all regions have acknowledged.
            (ChangeCause::Expired, None) => return,
        }
        let bytes = retained_bytes(change.key, new);
        let entry = pb::Change {
            bucket: change.bucket.clone(),
            key: change.key.clone(),
            bytes,
        };
        batch.put(self.rows.change(new.change), entry.encode_to_vec());
        self.header.retained_changes += 1;
        self.header.retained_bytes += bytes;
    }

    /// Updates the tombstone index.
    pub(super) fn index_tombstone(&self, change: &RecordChange<'_>, batch: &mut RowBatch) {
        let row = |record: &pb::Record| {
            let time = record::version_of(record).time;
            self.rows.tombstone(time, change.bucket, change.key)
        };
        if let Some(old) = change.old.as_ref().filter(|old| old.tombstone) {
            batch.delete(row(old));
        }
        if let Some(new) = change.new.as_ref().filter(|new| new.tombstone) {
            batch.put(row(new), b"");
        }
    }

    /// Sets the list of other regions. A new region has nothing yet: all changes still retained are
    /// retained for it, too; all others it gets when it is seeded from one of the others.
    pub(super) fn apply_set_peers(
        &mut self,
        set: &pb::SetPeers,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let unnamed = set.regions.iter().map(|region| pb::Peer {
            region: *region,
            incarnation: 0,
        });
        if set.epoch != 0 && set.epoch <= self.header.peers_epoch {
            return Ok(ShardResponse::Done);
        }
        let acknowledged = self.acknowledged_by_all();
        let mut peers = Vec::new();
        for peer in set.peers.iter().copied().chain(unnamed) {
            let known = self
                .header
                .peers
                .iter()
                .find(|known| is_same_history(known, &peer));
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
        let before = self.acknowledged_by_all();
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
        let upto = self.acknowledged_by_all();
        if upto <= before {
            return Ok(());
        }
        let scan = Scan {
            from: self.rows.change(before + 1),
            to: self.rows.change(upto + 1),
            fill_cache: true,
        };
        let (mut count, mut bytes, mut failed) = (0, 0, None);
        blocking(|| {
            self.db.scan(scan, |row, value| match decode_change(value) {
                Ok(entry) => {
                    count += 1;
                    bytes += entry.bytes;
                    batch.delete(row);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
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
        let mut peers = header.peers.iter();
        peers.all(|peer| tombstone.change <= peer.acknowledged)
    } else {
        // Writes of a removed region were all reconciled.
        let mut peers = header.peers.iter();
        let origin = peers.find(|peer| peer.region == version.region);
        origin.is_none_or(|origin| tombstone.source <= origin.stable)
    };
    let mut peers = header.peers.iter();
    all_have_it && peers.all(|peer| peer.watermark >= version.time)
}

/// Returns the lowest watermark of all other regions: no tombstone of a version above it can be
/// collected.
pub(super) fn lowest_watermark(header: &pb::ShardHeader) -> Nanos {
    let watermarks = header.peers.iter().map(|peer| peer.watermark);
    watermarks.min().unwrap_or(Nanos::MAX)
}

pub(super) fn is_same_history(state: &pb::PeerState, peer: &pb::Peer) -> bool {
    state.region == peer.region && state.incarnation == peer.incarnation
}

/// Decodes an entry of the change index.
pub(super) fn decode_change(row: &[u8]) -> Result<pb::Change, StoreError> {
    pb::Change::decode(Bytes::copy_from_slice(row))
        .map_err(StoreError::on("decode", "entry of the change index"))
}

fn retained_bytes(key: &[u8], record: &pb::Record) -> u64 {
    (key.len() + record.value.len() + ENTRY_OVERHEAD_BYTES) as u64
}
