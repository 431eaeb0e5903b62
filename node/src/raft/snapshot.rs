//! Snapshots of a group: its rows as chunks, which the receiver writes into a new generation.
//!
//! The state is its own snapshot: nothing is copied to make one. It is scanned in one consistent
//! view when it is sent, and the position that is sent with it is that of the view, which may be
//! later than the one at which the snapshot was requested. The receiver writes the rows as they
//! arrive into a generation that is not read yet (`snapshot_receiver`), flushes them, and only then
//! sets the group's pointer to it, in one row that is flushed too. A crash before that leaves the
//! old generation whole, a crash after it the new one; leftovers of others are removed at the next
//! start. Neither side ever holds more than a few chunks in memory.
//!
//! Invariant: a generation is given to one snapshot only ([`GenerationAllocator`]), so rows of two
//! snapshots are never mixed, whatever is left of those that failed.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use openraft::storage::Snapshot;
use openraft::{BasicNode, RaftSnapshotBuilder, SnapshotMeta};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::codec;
use super::types::{CommittedLeaderId, StateMachine, TypeConfig, Vote};
use crate::background::BackgroundScheduler;
use crate::store::keys::{self, GroupId, RowKind, Rows};
use crate::store::{RowBatch, Scan, StateDb, StoreError};
use crate::types::NodeId;

/// Approximate size of the rows in a chunk.
const CHUNK_BYTES: usize = 256 << 10;

/// Maximum number of chunks read ahead of the connection that sends them.
const MAX_READAHEAD_CHUNKS: usize = 2;

/// A snapshot of a group's state.
#[derive(Clone)]
pub(super) struct SnapshotData {
    db: StateDb,
    rows: Rows,
    is_received: bool,
    /// Set if a damaged member requested it: see `repair`.
    is_repair: bool,
}

impl SnapshotData {
    /// A snapshot of the contents of `rows` when it is sent.
    pub(super) fn live(db: StateDb, rows: Rows) -> Self {
        Self {
            db,
            rows,
            is_received: false,
            is_repair: false,
        }
    }

    /// A snapshot that was received completely into `rows`, which is not read yet.
    pub(super) fn received(db: StateDb, rows: Rows) -> Self {
        Self {
            db,
            rows,
            is_received: true,
            is_repair: false,
        }
    }

    /// Marks it as requested by a member whose own state is damaged.
    pub(super) fn for_repair(mut self) -> Self {
        self.is_repair = true;
        self
    }

    /// Reads its frames while they are taken: header, chunks, last frame. Each read needs a permit
    /// of `scheduler`. The view that is read is released when everything is read, or when the
    /// frames are dropped.
    pub(super) fn frames(
        self,
        group: GroupId,
        vote: &Vote,
        scheduler: BackgroundScheduler,
    ) -> mpsc::Receiver<pb::SnapshotFrame> {
        let (frames, receiver) = mpsc::channel(MAX_READAHEAD_CHUNKS);
        let vote = codec::vote_to_pb(vote);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            // Ends early when the frames are dropped.
            let next_permit = || {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        () = frames.closed() => None,
                        permit = scheduler.acquire() => Some(permit),
                    }
                })
            };
            let mut permit = next_permit();
            let read = self.read_frames(group, vote, |kind| {
                drop(permit.take());
                let frame = pb::SnapshotFrame { kind: Some(kind) };
                let kind = io::ErrorKind::BrokenPipe;
                let dropped = |_| io::Error::new(kind, "the frames were dropped");
                frames.blocking_send(frame).map_err(dropped)?;
                permit = next_permit();
                Ok(())
            });
            // Without its last frame the receiver discards it.
            if let Err(error) = read
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::error!(%group, %error, "snapshot read failed");
            }
        });
        receiver
    }

    fn read_frames(
        &self,
        group: GroupId,
        vote: pb::Vote,
        mut sink: impl FnMut(Frame) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut vote = Some(vote);
        let mut checksum = SnapshotChecksum::default();
        self.export_chunks(|mut chunk| {
            if let Some(vote) = vote.take() {
                let head = pb::SnapshotHeader {
                    repair: self.is_repair,
                    ..snapshot_header(group, vote, &chunk)?
                };
                sink(Frame::Header(head))?;
            }
            chunk.number = checksum.chunks;
            checksum.add_chunk(&chunk);
            sink(Frame::Chunk(chunk))
        })?;
        sink(Frame::Last(checksum.end_frame()))
    }

    /// Passes all rows to `sink`, chunk by chunk, in one consistent view, position and members
    /// included. Blocks.
    fn export_chunks(
        &self,
        mut sink: impl FnMut(pb::SnapshotChunk) -> io::Result<()>,
    ) -> io::Result<()> {
        let (from, to) = self.rows.bounds();
        let mut chunk = pb::SnapshotChunk::default();
        let mut size = 0;
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        self.db.try_scan(scan, |key, value| {
            let key = keys::to_portable(key).unwrap_or_default();
            size += key.len() + value.len();
            chunk.rows.push(pb::SnapshotRow {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            });
            if size >= CHUNK_BYTES {
                size = 0;
                sink(std::mem::take(&mut chunk))?;
            }
            Ok::<_, io::Error>(ControlFlow::Continue(()))
        })?;
        sink(chunk)
    }
}

/// Builds the header of a snapshot whose first chunk is `first`: position and members are its first
/// rows.
fn snapshot_header(
    group: GroupId,
    vote: pb::Vote,
    first: &pb::SnapshotChunk,
) -> io::Result<pb::SnapshotHeader> {
    let row = |kind: RowKind| {
        let found = first.rows.iter().find(|row| row.key[..] == [kind as u8]);
        found.map(|row| row.value.clone())
    };
    let missing = || io::Error::other("read snapshot: the state holds no position");
    let last = codec::decode_log_id(row(RowKind::Applied).ok_or_else(missing)?)?;
    let membership = match row(RowKind::Membership) {
        Some(row) => pb::StoredMembership::decode(row).map_err(io::Error::other)?,
        None => pb::StoredMembership::default(),
    };
    Ok(pb::SnapshotHeader {
        group: u32::from(group.0),
        vote: Some(vote),
        last: Some(codec::log_id_to_pb(&last)),
        membership: Some(membership),
        transfer: random_transfer_id()?,
        acknowledged: 0,
        repair: false,
    })
}

/// Distinguishes a view from all others; never 0.
fn random_transfer_id() -> io::Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    Ok(u64::from_be_bytes(random).max(1))
}

/// Counts and digest of a snapshot, computed by both ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SnapshotChecksum {
    chunks: u64,
    rows: u64,
    bytes: u64,
    /// Digest of all keys and values, in their order.
    digest: u64,
}

impl SnapshotChecksum {
    /// Adds the next chunk.
    pub(super) fn add_chunk(&mut self, chunk: &pb::SnapshotChunk) {
        self.chunks += 1;
        self.rows += chunk.rows.len() as u64;
        self.bytes += chunk_bytes(chunk);
        for row in &chunk.rows {
            let key = xxh3_64_with_seed(&row.key, self.digest);
            self.digest = xxh3_64_with_seed(&row.value, key);
        }
    }

    /// Bytes of the keys and values so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    fn end_frame(&self) -> pb::SnapshotEnd {
        pb::SnapshotEnd {
            chunks: self.chunks,
            rows: self.rows,
            digest: self.digest,
        }
    }

    /// Compares what was received with what was sent.
    pub(super) fn verify(&self, sent: &pb::SnapshotEnd) -> Result<(), Status> {
        let received = self.end_frame();
        if received == *sent {
            return Ok(());
        }
        Err(Status::data_loss(format!(
            "verify snapshot: received other rows than were sent: {} rows in {} chunks with digest \
             {:016x} instead of {} in {} with {:016x}",
            received.rows, received.chunks, received.digest, sent.rows, sent.chunks, sent.digest
        )))
    }
}

/// Bytes of a chunk's keys and values.
pub(super) fn chunk_bytes(chunk: &pb::SnapshotChunk) -> u64 {
    let rows = chunk.rows.iter();
    rows.map(|row| (row.key.len() + row.value.len()) as u64)
        .sum()
}

/// Gives each received snapshot a generation that nothing was written into. When a group is opened,
/// no rows of other generations than the current one are left ([`remove_leftovers`]), and none is
/// given twice after that.
#[derive(Clone, Debug)]
pub(super) struct GenerationAllocator(Arc<AtomicU32>);

impl GenerationAllocator {
    /// Starts after the current generation of a group that was just opened.
    pub(super) fn after(current: Rows) -> Self {
        Self(Arc::new(AtomicU32::new(current.generation())))
    }

    /// Returns the next generation.
    pub(super) fn next(&self, group: GroupId) -> Rows {
        Rows::new(group, self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Writes a chunk's rows into a generation. Blocks.
pub(super) fn write_chunk(
    db: &StateDb,
    rows: Rows,
    chunk: pb::SnapshotChunk,
) -> Result<(), StoreError> {
    let mut batch = RowBatch::default();
    for row in chunk.rows {
        batch.put(keys::from_portable(rows, &row.key), &row.value);
    }
    db.write(batch)
}

/// Builds snapshots, which copies nothing: see the module.
pub(super) struct SnapshotBuilder {
    pub(super) meta: SnapshotMeta<CommittedLeaderId, NodeId, BasicNode>,
    pub(super) data: SnapshotData,
}

impl<M: StateMachine> RaftSnapshotBuilder<TypeConfig<M>> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<CommittedLeaderId, NodeId, BasicNode, SnapshotData>, io::Error> {
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: self.data.clone(),
        })
    }
}

/// Returns the group's current generation.
pub(super) fn current_rows(db: &StateDb, group: GroupId) -> Result<Rows, StoreError> {
    decode_pointer(group, db.get(&pointer_key(group))?)
}

/// Returns the group's generation that a crash would leave as the current one.
pub(super) fn persisted_rows(db: &StateDb, group: GroupId) -> Result<Rows, StoreError> {
    decode_pointer(group, db.get_persisted(&pointer_key(group))?)
}

fn pointer_key(group: GroupId) -> Vec<u8> {
    Rows::new(group, 0).single(RowKind::Pointer)
}

fn decode_pointer(group: GroupId, pointer: Option<Bytes>) -> Result<Rows, StoreError> {
    let pointer = match pointer {
        Some(row) => pb::GroupPointer::decode(row).map_err(StoreError::on(
            "decode",
            "pointer to the current generation",
        ))?,
        None => pb::GroupPointer { generation: 1 },
    };
    Ok(Rows::new(group, pointer.generation))
}

/// Makes a snapshot's rows the group's current ones. Those of the old generation are left for
/// [`remove_generation`]. Blocks.
pub(super) fn install_generation(
    db: &StateDb,
    old: Rows,
    data: &SnapshotData,
    generations: &GenerationAllocator,
) -> io::Result<Rows> {
    let new = if data.is_received {
        data.rows
    } else {
        copy_rows(db, generations.next(old.group()), data)?
    };
    if new.generation() <= old.generation() {
        return Err(io::Error::other(
            "install snapshot: its generation is not newer",
        ));
    }
    db.flush()?;
    let mut batch = RowBatch::default();
    let pointer = pb::GroupPointer {
        generation: new.generation(),
    };
    batch.put(pointer_key(old.group()), pointer.encode_to_vec());
    db.write(batch)?;
    db.flush()?;
    Ok(new)
}

/// Copies a snapshot that wasn't received from another node: openraft may install a group's own.
fn copy_rows(db: &StateDb, new: Rows, data: &SnapshotData) -> io::Result<Rows> {
    data.export_chunks(|chunk| Ok(write_chunk(db, new, chunk)?))?;
    Ok(new)
}

/// Removes all rows of a generation that isn't the current one. Blocks.
pub(super) fn remove_generation(db: &StateDb, rows: Rows) -> Result<(), StoreError> {
    db.remove_ranges(&[rows.bounds()])
}

/// Removes all rows of other generations than the current one, left by crashes and failed
/// snapshots. Blocks.
pub(super) fn remove_leftovers(db: &StateDb, current: Rows) -> Result<(), StoreError> {
    let mut next = Some(1);
    while let Some(from) = next {
        let first = match first_generation(db, current.group(), from) {
            Ok(first) => first,
            // Generations that can't be read are not in use.
            Err(_) => return remove_all_but(db, current),
        };
        let Some(generation) = first else {
            return Ok(());
        };
        if generation != current.generation() {
            remove_generation(db, Rows::new(current.group(), generation))?;
        }
        next = generation.checked_add(1);
    }
    Ok(())
}

/// Removes all generations but the current one, without reading them. Blocks.
pub(super) fn remove_all_but(db: &StateDb, current: Rows) -> Result<(), StoreError> {
    let group = current.group();
    let (first, _) = Rows::new(group, 1).bounds();
    let (_, last) = Rows::new(group, u32::MAX).bounds();
    let (from, to) = current.bounds();
    db.remove_ranges(&[(first, from), (to, last)])
}

/// Returns the first generation from `from` on that has rows.
fn first_generation(db: &StateDb, group: GroupId, from: u32) -> Result<Option<u32>, StoreError> {
    let (from, _) = Rows::new(group, from).bounds();
    let (_, to) = Rows::new(group, u32::MAX).bounds();
    let mut first = None;
    let scan = Scan {
        from,
        to,
        fill_cache: false,
    };
    db.scan(scan, |key, _| {
        first = keys::generation_of(key);
        ControlFlow::Break(())
    })?;
    Ok(first)
}
