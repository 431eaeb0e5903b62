//! Reads of a shard's rows: its header, buckets, and the entries of the change index.

use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::feature_level::check_feature_level;
use crate::store::keys::{RowKind, Rows};
use crate::store::{DbSnapshot, Scan, StoreError};
use crate::types::BucketId;

/// Reads the shard's header: blocks. It is empty until the shard is bootstrapped. Fails if a later
/// version has raised the feature level beyond this one's: its rules aren't known here.
pub(super) fn read_header(db: &DbSnapshot<'_>, rows: Rows) -> Result<pb::ShardHeader, StoreError> {
    let row = db.get(&rows.single(RowKind::Header))?.unwrap_or_default();
    let header = pb::ShardHeader::decode(row).map_err(StoreError::on("decode", "shard header"))?;
    check_feature_level(header.level).map_err(StoreError::on("read", "shard header"))?;
    Ok(header)
}

/// Decodes a bucket's state from its row.
pub(super) fn decode_bucket(row: Bytes) -> Result<pb::BucketState, StoreError> {
    pb::BucketState::decode(row).map_err(StoreError::on("decode", "bucket state"))
}

/// Decodes an entry of the change index.
pub(super) fn decode_change(row: &[u8]) -> Result<pb::Change, StoreError> {
    pb::Change::decode(Bytes::copy_from_slice(row))
        .map_err(StoreError::on("decode", "entry of the change index"))
}

/// Returns whether a bucket's name has the length that row keys require.
pub(super) fn is_bucket_name(name: &[u8]) -> bool {
    name.len() == BucketId::LEN
}

/// Visits all rows of a kind, until a visit fails.
pub(super) fn for_each_row<E: From<StoreError>>(
    db: &DbSnapshot<'_>,
    rows: Rows,
    kind: RowKind,
    mut visit: impl FnMut(&[u8], Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let (from, to) = rows.all_of_kind(kind);
    let scan = Scan {
        from,
        to,
        fill_cache: false,
    };
    db.try_scan(&scan, |key, value| {
        visit(key, Bytes::copy_from_slice(value)).map(ControlFlow::Continue)
    })
}
