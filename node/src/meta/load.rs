//! Reads the metadata's rows, at the start and after a snapshot.

use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::catalog::{Bucket, Catalog, ttl_from_nanos};
use super::feature_level::check_feature_level;
use super::plans::{self, PlanTerms};
use super::topology::{NodeInfo, Placement, Topology};
use crate::store::keys::{self, RowKind, Rows};
use crate::store::{Scan, StateDb, StoreError};
use crate::types::{AccountId, BucketId, Plan};

/// Reads all rows into the catalog: plans first, then accounts, then buckets, which depend on both.
/// Header and topology are published last and together, in place of the old ones.
pub(super) fn load(
    db: &StateDb,
    rows: Rows,
    catalog: &Catalog,
) -> Result<pb::MetaHeader, StoreError> {
    let header = match db.get(&rows.single(RowKind::Header))? {
        Some(row) => pb::MetaHeader::decode(row).map_err(StoreError::on("decode", "metadata"))?,
        None => pb::MetaHeader::default(),
    };
    // A later version may have raised it: its rules aren't known here.
    check_feature_level(header.level).map_err(StoreError::on("read", "metadata"))?;
    scan_rows(db, rows, RowKind::Plan, |_, row| {
        let limits = pb::PlanLimits::decode(row).map_err(StoreError::on("decode", "plan"))?;
        if let Some(plan) = plans::plan_from_pb(limits.plan()) {
            catalog.put_plan(plan, PlanTerms::from_pb(&limits));
        }
        Ok(())
    })?;
    scan_rows(db, rows, RowKind::Account, |id, row| {
        let account = pb::Account::decode(row).map_err(StoreError::on("decode", "account"))?;
        let id = id
            .try_into()
            .map_err(|_| StoreError::corrupt("account", "its ID's length"))?;
        catalog.put_account(AccountId(id), account);
        Ok(())
    })?;
    scan_rows(db, rows, RowKind::BucketMeta, |id, row| {
        let bucket = pb::Bucket::decode(row).map_err(StoreError::on("decode", "bucket"))?;
        catalog.put_bucket(bucket_from_row(id, bucket, |plan| catalog.plan(plan))?);
        Ok(())
    })?;
    catalog.sort_account_buckets();
    catalog.publish(header.clone(), Some(load_topology(db, rows)?));
    Ok(header)
}

/// Builds a bucket from its row, and from the terms of its plan.
pub(super) fn bucket_from_row(
    id: &[u8],
    row: pb::Bucket,
    terms_of: impl FnOnce(Plan) -> Option<PlanTerms>,
) -> Result<Bucket, StoreError> {
    let corrupt = |rule| StoreError::corrupt("bucket", rule);
    let plan = plans::plan_from_pb(row.plan()).ok_or_else(|| corrupt("its plan is unknown"))?;
    let terms = terms_of(plan).ok_or_else(|| corrupt("its plan has no terms"))?;
    let id = BucketId::parse(id).ok_or_else(|| corrupt("its name is malformed"))?;
    let owner = row.account[..]
        .try_into()
        .map_err(|_| corrupt("its account is malformed"))?;
    Ok(Bucket {
        id,
        owner: AccountId(owner),
        access: plans::access_from_pb(row.access())
            .ok_or_else(|| corrupt("its access is unknown"))?,
        plan,
        limits: terms.limits,
        comment: row.comment,
        default_ttl: ttl_from_nanos(row.default_ttl),
        created_at: row.created_at,
        is_dropping: row.dropping,
        dropped_in: row.dropped_in,
        usage: Default::default(),
    })
}

fn load_topology(db: &StateDb, rows: Rows) -> Result<Topology, StoreError> {
    let mut topology = Topology::default();
    scan_rows(db, rows, RowKind::Node, |id, row| {
        let row = pb::NodeRow::decode(row).map_err(StoreError::on("decode", "node"))?;
        let id = keys::parse_node_id(id)
            .ok_or_else(|| StoreError::corrupt("node", "its number's length"))?;
        let node = NodeInfo::from_row(id, row)
            .ok_or_else(|| StoreError::corrupt("node", "its state is unknown"))?;
        topology.put_node(node);
        Ok(())
    })?;
    scan_rows(db, rows, RowKind::Placement, |id, row| {
        let row = pb::Placement::decode(row).map_err(StoreError::on("decode", "placement"))?;
        let (region, shard) = keys::parse_placement_id(id)
            .ok_or_else(|| StoreError::corrupt("placement", "its ID's length"))?;
        topology.put_placement(region, shard, Placement::from_row(row));
        Ok(())
    })?;
    Ok(topology)
}

fn scan_rows(
    db: &StateDb,
    rows: Rows,
    kind: RowKind,
    mut visit: impl FnMut(&[u8], Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let from = rows.single(kind);
    let to = keys::prefix_end(&from);
    let scan = Scan {
        from,
        to,
        fill_cache: false,
    };
    db.try_scan(scan, |key, row| {
        let id = keys::id_of(key).unwrap_or_default();
        visit(id, Bytes::copy_from_slice(row)).map(ControlFlow::Continue)
    })
}
