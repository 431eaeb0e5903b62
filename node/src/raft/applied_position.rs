//! Position of the last applied entry, and the members as of it, as a group's rows hold them.

use std::io;

use super::codec;
use super::snapshot;
use super::types::{LogId, StoredMembership};
use crate::store::StateDb;
use crate::store::keys::{GroupId, RowKind, Rows};

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

/// Index of the last entry whose effects are flushed: a crash doesn't lose them.
pub(super) fn persisted_index(db: &StateDb, group: GroupId) -> io::Result<Option<u64>> {
    let rows = snapshot::persisted_rows(db, group)?;
    let applied = db.get_persisted(&rows.single(RowKind::Applied))?;
    Ok(applied
        .map(codec::decode_log_id)
        .transpose()?
        .map(|id| id.index))
}
