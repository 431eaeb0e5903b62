//! Snapshots of a group: its rows as chunks, and their way into a new generation.
//!
//! The state is its own snapshot: nothing is copied to make one. It is walked in one consistent
//! view when it is sent, and the position that is sent with it is the one that this view holds,
//! which may be later than the one at which the snapshot was asked for. The receiver writes the
//! rows as they come under a generation that nobody reads yet, flushes them, and only then turns
//! the group's pointer to it, in one row that is flushed too. A crash before leaves the old
//! generation whole, a crash after the new one; what is left of the other is removed at the next
//! start. Neither side ever holds more than a few chunks in memory.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use futures_util::StreamExt;
use openraft::storage::Snapshot;
use openraft::{BasicNode, RaftSnapshotBuilder, SnapshotMeta};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::codec;
use super::types::{CommittedLeaderId, Machine, NodeId, Types, Vote};
use crate::rpc::Frames;
use crate::store::keys::{self, GroupId, Kind, Rows};
use crate::store::{Batch, Scan, StateDb, StoreError};

/// Size of the rows in a chunk, about.
const CHUNK_BYTES: usize = 512 << 10;

/// Chunks read ahead of the connection that takes them.
const CHUNKS_AHEAD: usize = 2;

/// A snapshot.
#[derive(Clone)]
pub struct SnapshotData {
    db: StateDb,
    rows: Rows,
    received: bool,
    /// A damaged member asked for it: see `repair`.
    repair: bool,
}

impl SnapshotData {
    /// A snapshot of what `rows` hold when it is sent.
    pub(super) fn live(db: StateDb, rows: Rows) -> Self {
        Self {
            db,
            rows,
            received: false,
            repair: false,
        }
    }

    /// A snapshot that was received whole into `rows`, which nobody reads yet.
    pub(super) fn received(db: StateDb, rows: Rows) -> Self {
        Self {
            db,
            rows,
            received: true,
            repair: false,
        }
    }

    /// The same, for a member that asked for it since its own state is damaged.
    pub(super) fn for_repair(mut self) -> Self {
        self.repair = true;
        self
    }

    /// Its frames, read while they are sent: head, chunks, end.
    pub(super) fn frames(self, group: GroupId, vote: &Vote) -> ReceiverStream<pb::SnapshotFrame> {
        let (frames, stream) = mpsc::channel(CHUNKS_AHEAD);
        let vote = codec::vote_to_pb(vote);
        tokio::task::spawn_blocking(move || {
            let sent = self.send(group, vote, |kind| {
                let frame = pb::SnapshotFrame { kind: Some(kind) };
                let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it");
                frames.blocking_send(frame).map_err(gone)
            });
            // Without its last frame the receiver drops it.
            if let Err(error) = sent
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::error!(%group, %error, "read a snapshot");
            }
        });
        ReceiverStream::new(stream)
    }

    fn send(
        &self,
        group: GroupId,
        vote: pb::Vote,
        mut sink: impl FnMut(Frame) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut vote = Some(vote);
        let mut count = 0;
        self.export(|chunk| {
            if let Some(vote) = vote.take() {
                let head = pb::SnapshotHead {
                    repair: self.repair,
                    ..head(group, vote, &chunk)?
                };
                sink(Frame::Head(head))?;
            }
            count += chunk.rows.len() as u64;
            sink(Frame::Chunk(chunk))
        })?;
        sink(Frame::End(count))
    }

    /// Hands all rows to `sink`, chunk by chunk, in one consistent view, position and members
    /// included: blocks.
    fn export(&self, mut sink: impl FnMut(pb::SnapshotChunk) -> io::Result<()>) -> io::Result<()> {
        let (from, to) = self.rows.bounds();
        let mut chunk = pb::SnapshotChunk::default();
        let mut size = 0;
        let mut failed = None;
        self.db.scan(
            Scan {
                from,
                to,
                fill_cache: false,
            },
            |key, value| {
                let key = keys::portable(key).unwrap_or_default();
                size += key.len() + value.len();
                chunk.rows.push(pb::SnapshotRow {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                });
                if size >= CHUNK_BYTES {
                    size = 0;
                    failed = sink(std::mem::take(&mut chunk)).err();
                }
                if failed.is_some() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )?;
        match failed {
            Some(error) => Err(error),
            None => sink(chunk),
        }
    }
}

/// The head of a snapshot whose first chunk this is: position and members are its first rows.
fn head(group: GroupId, vote: pb::Vote, first: &pb::SnapshotChunk) -> io::Result<pb::SnapshotHead> {
    let row = |kind: Kind| {
        let found = first.rows.iter().find(|row| row.key[..] == [kind as u8]);
        found.map(|row| row.value.clone())
    };
    let missing = || io::Error::other("the state says no position");
    let last = codec::decode_log_id(row(Kind::Applied).ok_or_else(missing)?)?;
    let membership = match row(Kind::Membership) {
        Some(row) => pb::StoredMembership::decode(row).map_err(io::Error::other)?,
        None => pb::StoredMembership::default(),
    };
    Ok(pb::SnapshotHead {
        group: u32::from(group.0),
        vote: Some(vote),
        last: Some(codec::log_id_to_pb(&last)),
        membership: Some(membership),
        repair: false,
    })
}

/// Writes the frames of a snapshot under a generation that nobody reads, and returns its rows once
/// all of them have come.
pub async fn receive(db: &StateDb, group: GroupId, mut frames: Frames) -> Result<Rows, Status> {
    let current = current_rows(db, group).map_err(failed)?;
    let rows = Rows::new(group, current.generation() + 1);
    write(db, move |db| remove(&db, rows)).await?;
    let mut count = 0;
    while let Some(frame) = frames.next().await {
        match frame?.kind {
            Some(Frame::Chunk(chunk)) => {
                count += chunk.rows.len() as u64;
                write(db, move |db| put(&db, rows, chunk)).await?;
            }
            Some(Frame::End(sent)) if sent == count => return Ok(rows),
            Some(Frame::End(_)) => return Err(Status::data_loss("rows are missing")),
            Some(Frame::Head(_)) | None => return Err(Status::invalid_argument("unknown frame")),
        }
    }
    Err(Status::cancelled("the snapshot has ended before its end"))
}

async fn write(
    db: &StateDb,
    write: impl FnOnce(StateDb) -> Result<(), StoreError> + Send + 'static,
) -> Result<(), Status> {
    let db = db.clone();
    let written = tokio::task::spawn_blocking(move || write(db)).await;
    written
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(failed)
}

fn failed(error: StoreError) -> Status {
    Status::internal(error.to_string())
}

fn put(db: &StateDb, rows: Rows, chunk: pb::SnapshotChunk) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    for row in chunk.rows {
        batch.put(keys::from_portable(rows, &row.key), &row.value);
    }
    db.write(batch)
}

/// Makes snapshots, which costs nothing: see the module.
pub struct Builder {
    pub(super) meta: SnapshotMeta<CommittedLeaderId, NodeId, BasicNode>,
    pub(super) data: SnapshotData,
}

impl<M: Machine> RaftSnapshotBuilder<Types<M>> for Builder {
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

/// The group's current generation.
pub fn current_rows(db: &StateDb, group: GroupId) -> Result<Rows, StoreError> {
    rows_of(group, db.get(&pointer_key(group))?)
}

/// The group's generation that a crash would leave as the current one.
pub fn persisted_rows(db: &StateDb, group: GroupId) -> Result<Rows, StoreError> {
    rows_of(group, db.get_persisted(&pointer_key(group))?)
}

fn pointer_key(group: GroupId) -> Vec<u8> {
    Rows::new(group, 0).single(Kind::Pointer)
}

fn rows_of(group: GroupId, pointer: Option<Bytes>) -> Result<Rows, StoreError> {
    let pointer = match pointer {
        Some(row) => pb::GroupPointer::decode(row).map_err(StoreError::on(
            "decode",
            "pointer to the current generation",
        ))?,
        None => pb::GroupPointer { generation: 1 },
    };
    Ok(Rows::new(group, pointer.generation))
}

/// Makes a snapshot's rows the group's current ones: blocks. Those of the old generation are left
/// for [`remove`].
pub fn install(db: &StateDb, old: Rows, data: &SnapshotData) -> io::Result<Rows> {
    let new = if data.received {
        data.rows
    } else {
        copy(db, old, data)?
    };
    if new.generation() <= old.generation() {
        return Err(io::Error::other("a snapshot of an old generation"));
    }
    db.flush()?;
    let mut batch = Batch::default();
    let pointer = pb::GroupPointer {
        generation: new.generation(),
    };
    batch.put(pointer_key(old.group()), pointer.encode_to_vec());
    db.write(batch)?;
    db.flush()?;
    Ok(new)
}

/// A snapshot that didn't come from another node: openraft may hand a group its own.
fn copy(db: &StateDb, old: Rows, data: &SnapshotData) -> io::Result<Rows> {
    let new = Rows::new(old.group(), old.generation() + 1);
    remove(db, new)?;
    data.export(|chunk| Ok(put(db, new, chunk)?))?;
    Ok(new)
}

/// Removes all rows of a generation that isn't the current one: blocks.
pub fn remove(db: &StateDb, rows: Rows) -> Result<(), StoreError> {
    db.remove_for_good(&[rows.bounds()])
}

/// Removes what a crash during an installation left of other generations.
pub fn remove_leftovers(db: &StateDb, current: Rows) -> Result<(), StoreError> {
    let neighbours = [
        current.generation().saturating_sub(1),
        current.generation() + 1,
    ];
    for generation in neighbours.into_iter().filter(|generation| *generation > 0) {
        let rows = Rows::new(current.group(), generation);
        let (from, to) = rows.bounds();
        let mut any = false;
        let scanned = db.scan(
            Scan {
                from,
                to,
                fill_cache: false,
            },
            |_, _| {
                any = true;
                ControlFlow::Break(())
            },
        );
        // What can't be read isn't in use.
        if any || scanned.is_err() {
            remove(db, rows)?;
        }
    }
    Ok(())
}
