//! Snapshots of a group: its rows as chunks, and their way into a new generation.
//!
//! The state is its own snapshot: nothing is copied to make one. It is walked in one consistent
//! view when it is sent. The receiver writes the rows under a generation that nobody reads yet,
//! flushes them, and only then turns the group's pointer to it, in one row that is flushed too. A
//! crash before leaves the old generation whole, a crash after the new one; what is left of the
//! other is removed at the next start.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use openraft::storage::Snapshot;
use openraft::{BasicNode, RaftSnapshotBuilder, SnapshotMeta};
use prost::Message;

use super::types::{CommittedLeaderId, Machine, NodeId, Types};
use crate::store::keys::{self, GroupId, Kind, Rows};
use crate::store::{Batch, Scan, StateDb, StoreError};

/// Size of the rows in a chunk, about.
const CHUNK_BYTES: usize = 512 << 10;

/// A snapshot: rows that can be walked now.
#[derive(Clone)]
pub struct SnapshotData {
    db: StateDb,
    rows: Rows,
}

impl SnapshotData {
    pub(super) fn live(db: StateDb, rows: Rows) -> Self {
        Self { db, rows }
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

/// Writes a snapshot's rows under a new generation and makes it the current one: blocks. The rows
/// of the old one are left for [`remove`].
pub fn install(db: &StateDb, old: Rows, data: SnapshotData) -> io::Result<Rows> {
    let new = Rows::new(old.group(), old.generation() + 1);
    remove(db, new)?;
    data.export(|chunk| {
        let mut batch = Batch::default();
        for row in chunk.rows {
            batch.put(keys::from_portable(new, &row.key), &row.value);
        }
        Ok(db.write(batch)?)
    })?;
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

/// Removes all rows of a generation that isn't the current one: blocks.
pub fn remove(db: &StateDb, rows: Rows) -> Result<(), StoreError> {
    let (from, to) = rows.bounds();
    let mut batch = Batch::default();
    batch.delete_range(&from, &to);
    db.write(batch)?;
    db.drop_files(&from, &to)
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
        db.scan(
            Scan {
                from,
                to,
                fill_cache: false,
            },
            |_, _| {
                any = true;
                ControlFlow::Break(())
            },
        )?;
        if any {
            remove(db, rows)?;
        }
    }
    Ok(())
}
