//! What other regions are sent of a shard, each time read in one consistent view.
//!
//! Invariant: a part and the watermark sent with it are of one view, and only a part that ends where
//! the view ends has one: no later change of this region has a version at or below it. (The index has
//! one entry a key, so what is left of it after another place says less than that.)

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::held::{decode_change, lowest_watermark, may_collect};
use super::record;
use super::state::{decode_bucket, is_bucket_name};
use super::view::View;
use crate::store::keys::{self, Kind, Rows};
use crate::store::{Frozen, Scan, StoreError};
use crate::types::Nanos;

/// A shard as its propagation sees it.
#[derive(Clone, Debug, Default)]
pub struct Peering {
    /// The shard's header; its peers are the other regions.
    pub header: pb::ShardHeader,
}

impl Peering {
    /// Another region.
    pub fn peer(&self, region: u32) -> Option<&pb::PeerState> {
        self.header.peers.iter().find(|peer| peer.region == region)
    }

    /// What is known of a history of another region.
    pub fn state_of(&self, peer: &pb::Peer) -> Option<pb::PeerState> {
        let state = self.peer(peer.region).copied();
        state.filter(|state| state.incarnation == peer.incarnation)
    }

    /// Every other region has this one's changes up to this position.
    pub fn stable(&self) -> u64 {
        let peers = self.header.peers.iter();
        let lowest = peers.map(|peer| peer.acknowledged).min();
        lowest.unwrap_or(self.header.change_last)
    }
}

/// A part of this region's history.
#[derive(Debug)]
pub struct Outgoing {
    /// The part, without its `stable`.
    pub merge: pb::Merge,
    /// Whether there is more after it.
    pub more: bool,
}

/// A part of what a region that joins takes over.
pub enum WalkPart {
    /// First: where the view stands in each region's history.
    Head(pb::AdoptEnd),
    /// Records and dropped buckets.
    Part(pb::Adopt),
}

/// Bounds of a part.
const PART_RECORDS: usize = 1000;
/// In bytes, about.
const PART_BYTES: usize = 512 << 10;

/// What is read for one other region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// The region.
    pub peer: u32,
    /// What it has.
    pub position: u64,
    /// Records at most.
    pub records: usize,
}

impl View {
    /// What region `peer` lacks that has all up to `position`, within the bounds of a part: blocks for
    /// the disk.
    pub fn changes_after(&self, peer: u32, position: u64) -> Result<Outgoing, StoreError> {
        self.part(Ask {
            peer,
            position,
            records: PART_RECORDS,
        })
    }

    pub(super) fn part(&self, ask: Ask) -> Result<Outgoing, StoreError> {
        self.stable(|rows| part(&self.db.frozen(), rows, ask))
    }

    /// Tombstones that can be collected, at most `limit`: blocks for the disk.
    pub fn collectable(&self, limit: usize) -> Result<Vec<pb::Tombstone>, StoreError> {
        self.stable(|rows| collectable(&self.db.frozen(), rows, limit))
    }

    /// Hands all that the shard has to `sink`, in one view: blocks. Fails if the rows were replaced
    /// meanwhile.
    pub fn walk(&self, sink: impl FnMut(WalkPart) -> io::Result<()>) -> io::Result<()> {
        let rows = self.rows();
        walk(&self.db.frozen(), rows, sink)?;
        if self.rows() == rows {
            Ok(())
        } else {
            Err(io::Error::other("the shard's state was replaced"))
        }
    }
}

pub(super) fn header(db: &Frozen<'_>, rows: Rows) -> Result<pb::ShardHeader, StoreError> {
    let row = db.get(&rows.single(Kind::Header))?.unwrap_or_default();
    pb::ShardHeader::decode(row).map_err(StoreError::on("decode", "shard header"))
}

fn part(db: &Frozen<'_>, rows: Rows, ask: Ask) -> Result<Outgoing, StoreError> {
    let position = ask.position;
    let header = header(db, rows)?;
    let mut merge = pb::Merge {
        origin: header.region,
        incarnation: header.incarnation,
        from: position,
        to: header.change_last.max(position),
        watermark: header.last_version,
        ..Default::default()
    };
    let scan = Scan {
        from: rows.change(position.saturating_add(1)),
        to: rows.all(Kind::Change).1,
        fill_cache: true,
    };
    let (mut bytes, mut last, mut more) = (0, position, false);
    let mut failed = None;
    db.scan(&scan, |row, value| {
        let mut take = || -> Result<bool, StoreError> {
            let entry = decode_change(value)?;
            if merge.records.len() >= ask.records || bytes >= PART_BYTES {
                merge.to = last;
                // The index has forgotten what was overwritten: only the view's end tells.
                merge.watermark = 0;
                return Ok(false);
            }
            let sequence = keys::sequence_of(row)
                .ok_or_else(|| StoreError::corrupt("change index", "its row key is too short"))?;
            last = sequence;
            if let Some(record) = changed_record(db, rows, header.region, &entry, sequence)?
                && record::version_of(&record).region != ask.peer
            {
                bytes += entry.key.len() + record.value.len() + 64;
                merge.records.push(pb::KeyRecord {
                    bucket: entry.bucket,
                    key: entry.key,
                    record: Some(record),
                });
            }
            Ok(true)
        };
        match take() {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => {
                more = true;
                ControlFlow::Break(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Outgoing { merge, more }),
    }
}

/// The record that an entry of the change index stands for; none if its bucket was dropped, or it was
/// collected.
fn changed_record(
    db: &Frozen<'_>,
    rows: Rows,
    region: u32,
    entry: &pb::Change,
    sequence: u64,
) -> Result<Option<pb::Record>, StoreError> {
    let row = db.get(&rows.record(&entry.bucket, &entry.key))?;
    let record = row.map(record::decode).transpose()?;
    let changed = record.filter(|record| record.change == sequence);
    Ok(changed.map(|record| portable(record, region)))
}

/// A record of a region's shard as other regions keep it.
fn portable(record: pb::Record, region: u32) -> pb::Record {
    let own = record::version_of(&record).region == region;
    pb::Record {
        source: if own { record.change } else { record.source },
        change: 0,
        ..record
    }
}

fn collectable(
    db: &Frozen<'_>,
    rows: Rows,
    limit: usize,
) -> Result<Vec<pb::Tombstone>, StoreError> {
    let header = header(db, rows)?;
    let lowest = lowest_watermark(&header);
    let (from, to) = rows.all(Kind::Tombstone);
    let scan = Scan {
        from,
        to,
        fill_cache: true,
    };
    let mut found: Vec<(Nanos, Bytes, Bytes)> = Vec::new();
    // Some of them wait for their origin to say that all have them: looked past, but not for long.
    let mut looks = 8 * limit;
    let mut chosen = Vec::new();
    db.scan(&scan, |row, _| {
        looks = looks.saturating_sub(1);
        match keys::split_timed(row) {
            Some((at, bucket, key)) if at <= lowest && looks > 0 => {
                found.push((
                    at,
                    Bytes::copy_from_slice(bucket),
                    Bytes::copy_from_slice(key),
                ));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    })?;
    for (time, bucket, key) in found {
        let record = db.get(&rows.record(&bucket, &key))?;
        let record = record.map(record::decode).transpose()?;
        let current =
            record.filter(|record| record.tombstone && record::version_of(record).time == time);
        let version = match &current {
            Some(record) if !may_collect(&header, record) => continue,
            Some(record) => record.version,
            // Only the index knows it: it goes, too.
            None => Some(pb::Version {
                time,
                ..Default::default()
            }),
        };
        chosen.push(pb::Tombstone {
            bucket,
            key,
            version,
        });
        if chosen.len() >= limit {
            break;
        }
    }
    Ok(chosen)
}

fn walk(
    db: &Frozen<'_>,
    rows: Rows,
    mut sink: impl FnMut(WalkPart) -> io::Result<()>,
) -> io::Result<()> {
    let header = header(db, rows)?;
    // This region's own history, as far as the view goes.
    let own = pb::PeerState {
        region: header.region,
        incarnation: header.incarnation,
        cursor: header.change_last,
        stable: 0,
        ..Default::default()
    };
    let mut cursors = header.peers.clone();
    cursors.push(own);
    sink(WalkPart::Head(pb::AdoptEnd {
        cursors,
        last_version: header.last_version,
    }))?;
    let mut part = pb::Adopt::default();
    each(db, rows, Kind::Bucket, |id, row| {
        let id = keys::id_of(id).unwrap_or_default();
        if decode_bucket(row)?.dropped && is_bucket_name(id) {
            part.dropped.push(Bytes::copy_from_slice(id));
            if part.dropped.len() >= PART_RECORDS {
                sink(WalkPart::Part(std::mem::take(&mut part)))?;
            }
        }
        Ok::<_, io::Error>(())
    })?;
    let mut bytes = 0;
    each(db, rows, Kind::Record, |key, row| {
        let Some((bucket, name)) = keys::split_record(key) else {
            return Ok::<_, io::Error>(());
        };
        let record = portable(record::decode(row)?, header.region);
        bytes += name.len() + record.value.len() + 64;
        part.records.push(pb::KeyRecord {
            bucket: Bytes::copy_from_slice(bucket),
            key: Bytes::copy_from_slice(name),
            record: Some(record),
        });
        if part.records.len() >= PART_RECORDS || bytes >= PART_BYTES {
            bytes = 0;
            sink(WalkPart::Part(std::mem::take(&mut part)))?;
        }
        Ok(())
    })?;
    sink(WalkPart::Part(part))
}

/// Visits all rows of a kind, until one fails.
pub(super) fn each<E: From<StoreError>>(
    db: &Frozen<'_>,
    rows: Rows,
    kind: Kind,
    mut visit: impl FnMut(&[u8], Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let (from, to) = rows.all(kind);
    let scan = Scan {
        from,
        to,
        fill_cache: false,
    };
    let mut failed = None;
    db.scan(&scan, |key, value| {
        match visit(key, Bytes::copy_from_slice(value)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}
