//! Position of the last applied entry, and the members as of it, as a group's rows hold them.

use std::io;

use super::codec;
use super::snapshot;
use super::types::{LogId, StoredMembership};
use crate::store::keys::{GroupId, RowKind, Rows};
use crate::store::{DbSnapshot, StateDb, StoreError};

/// Reads the position and the members that a generation's rows hold. Blocks.
pub(super) fn read_position(
    db: &StateDb,
    rows: Rows,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let applied = db
        .get(&rows.single(RowKind::Applied))?
        .map(codec::decode_log_id)
        .transpose()?;
    let membership = db.get(&rows.single(RowKind::Membership))?;
    let membership = membership.map(codec::decode_membership).transpose()?;
    Ok((applied, membership.unwrap_or_default()))
}

/// Reads the index of the last entry whose effects a view of a generation's rows has; 0 if it has
/// none. Blocks.
pub(crate) fn applied_index(db: &DbSnapshot<'_>, rows: Rows) -> Result<u64, StoreError> {
    let applied = db.get(&rows.single(RowKind::Applied))?;
    let applied = applied.map(codec::decode_log_id).transpose();
    let applied = applied.map_err(StoreError::on("decode", "applied position"))?;
    Ok(applied.map_or(0, |id| id.index))
}

/// Encodes the position of an entry of the first term as its row holds it.
#[cfg(test)]
pub(crate) fn applied_row(index: u64) -> Vec<u8> {
    codec::encode_log_id(&codec::log_id(1, index))
}

/// Index of the last entry whose effects are flushed: a crash doesn't lose them.
pub(super) fn persisted_index(db: &StateDb, group: GroupId) -> io::Result<Option<u64>> {
    let rows = snapshot::persisted_rows(db, group)?;
    let applied = db.get_persisted(&rows.single(RowKind::Applied))?;
    Ok(applied
        .map(codec::decode_log_id)
        .transpose()?
        .map(|id| id.index))
}
