//! Replicated state of the metadata: its rows, and the catalog that readers see.
//!
//! Invariant: the catalog, in memory, matches the rows as of the last written batch. Commands are
//! rare here, so each is a batch of its own, and apply reads the catalog.

use std::io;
use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use prost::Message;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::catalog::{Bucket, Catalog};
use super::feature_level::unsupported_item;
use super::load::load;
use super::plans::{self, PlanTerms};
use super::topology::{NodeInfo, Placement, Topology};
use crate::store::keys::{self, RowKind, Rows};
use crate::store::{RowBatch, StateDb, StoreError};
use crate::types::{AccountId, BucketId, Plan};

/// Metadata state on this node.
pub struct MetaState {
    db: StateDb,
    rows: Rows,
    pub(super) header: pb::MetaHeader,
    pub(super) catalog: Arc<Catalog>,
    staged: Vec<StagedChange>,
}

/// Change that becomes visible to readers once it is written.
enum StagedChange {
    Account(AccountId, pb::Account),
    RemovedAccount(AccountId),
    Bucket(Box<Bucket>),
    RemovedBucket(BucketId),
    Plan(Plan, PlanTerms),
    Node(NodeInfo),
    Placement(u32, u16, Placement),
}

impl MetaState {
    /// Opens the state in `rows`.
    pub fn open(db: StateDb, rows: Rows) -> Result<Self, StoreError> {
        let catalog = Arc::new(Catalog::default());
        let header = load(&db, rows, &catalog)?;
        Ok(Self {
            db,
            rows,
            header,
            catalog,
            staged: Vec::new(),
        })
    }

    /// Catalog that readers use.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.clone()
    }

    pub(super) fn put_account(&mut self, id: AccountId, row: pb::Account, batch: &mut RowBatch) {
        let old = self.catalog.account(&id).map(|old| old.encode_to_vec());
        let new = row.encode_to_vec();
        self.replace_row(RowKind::Account, &id.0, old, Some(new), batch);
        self.staged.push(StagedChange::Account(id, row));
    }

    pub(super) fn remove_account(&mut self, id: AccountId, batch: &mut RowBatch) {
        let old = self.catalog.account(&id).map(|old| old.encode_to_vec());
        self.replace_row(RowKind::Account, &id.0, old, None, batch);
        self.staged.push(StagedChange::RemovedAccount(id));
    }

    pub(super) fn put_bucket(&mut self, bucket: Bucket, batch: &mut RowBatch) {
        let old = self
            .catalog
            .any_bucket(&bucket.id)
            .map(|old| old.to_pb().encode_to_vec());
        let new = bucket.to_pb().encode_to_vec();
        self.replace_row(
            RowKind::BucketMeta,
            bucket.id.as_bytes(),
            old,
            Some(new),
            batch,
        );
        self.staged.push(StagedChange::Bucket(Box::new(bucket)));
    }

    pub(super) fn remove_bucket(&mut self, id: BucketId, batch: &mut RowBatch) {
        let old = self
            .catalog
            .any_bucket(&id)
            .map(|old| old.to_pb().encode_to_vec());
        self.replace_row(RowKind::BucketMeta, id.as_bytes(), old, None, batch);
        self.staged.push(StagedChange::RemovedBucket(id));
    }

    pub(super) fn put_plan(
        &mut self,
        limits: &pb::PlanLimits,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        let Some(plan) = plans::plan_from_pb(limits.plan()) else {
            return Err(unsupported_item("a plan"));
        };
        let id = limits.plan.to_be_bytes();
        self.put_row(RowKind::Plan, &id, limits, batch)?;
        self.staged
            .push(StagedChange::Plan(plan, PlanTerms::from_pb(limits)));
        Ok(())
    }

    pub(super) fn put_node(&mut self, node: NodeInfo, batch: &mut RowBatch) -> io::Result<()> {
        let id = keys::node_id(node.id);
        self.put_row(RowKind::Node, &id, &node.to_row(), batch)?;
        self.staged.push(StagedChange::Node(node));
        Ok(())
    }

    pub(super) fn put_placement(
        &mut self,
        region: u32,
        shard: u16,
        placement: Placement,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        let id = keys::placement_id(region, shard);
        self.put_row(RowKind::Placement, &id, &placement.to_row(), batch)?;
        self.staged
            .push(StagedChange::Placement(region, shard, placement));
        Ok(())
    }

    /// Replaces a row whose old content is read from the database.
    fn put_row(
        &mut self,
        kind: RowKind,
        id: &[u8],
        row: &impl Message,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        let old = self.db.get(&self.rows.by_id(kind, id))?;
        let old = old.map(|row| row.to_vec());
        self.replace_row(kind, id, old, Some(row.encode_to_vec()), batch);
        Ok(())
    }

    /// Replaces a row and its share of the digest.
    fn replace_row(
        &mut self,
        kind: RowKind,
        id: &[u8],
        old: Option<Vec<u8>>,
        new: Option<Vec<u8>>,
        batch: &mut RowBatch,
    ) {
        let key = self.rows.by_id(kind, id);
        let share = |row: Option<&Vec<u8>>| match (row, keys::to_portable(&key)) {
            (Some(row), Some(name)) => xxh3_64_with_seed(row, xxh3_64(name)),
            _ => 0,
        };
        let digest = self.header.digest.wrapping_sub(share(old.as_ref()));
        self.header.digest = digest.wrapping_add(share(new.as_ref()));
        match new {
            Some(row) => batch.put(key, row),
            None => batch.delete(key),
        }
    }

    /// Digest of the header, which has that of all other rows.
    pub(super) fn header_digest(&self) -> u64 {
        xxh3_64(&self.header.encode_to_vec())
    }

    /// Puts the header, as it is after the changes of a batch.
    pub(super) fn put_header(&self, batch: &mut RowBatch) {
        batch.put(
            self.rows.single(RowKind::Header),
            self.header.encode_to_vec(),
        );
    }

    /// Shows readers the changes of the batch that was just written.
    pub(super) fn publish(&mut self) {
        let mut topology = None;
        let old = || Topology::clone(&self.catalog.topology());
        for staged in self.staged.drain(..) {
            match staged {
                StagedChange::Account(id, row) => self.catalog.put_account(id, row),
                StagedChange::RemovedAccount(id) => self.catalog.remove_account(&id),
                StagedChange::Bucket(bucket) => self.catalog.put_bucket(*bucket),
                StagedChange::RemovedBucket(id) => self.catalog.remove_bucket(&id),
                StagedChange::Plan(plan, terms) => self.catalog.put_plan(plan, terms),
                StagedChange::Node(node) => topology.get_or_insert_with(old).put_node(node),
                StagedChange::Placement(region, shard, placement) => topology
                    .get_or_insert_with(old)
                    .put_placement(region, shard, placement),
            }
        }
        self.catalog.publish(self.header.clone(), topology);
    }

    /// Drops the state, and reads it again from `rows`.
    pub(super) fn load_rows(&mut self, rows: Rows) -> Result<(), StoreError> {
        // All rows are read before anything is replaced: meanwhile requests use the catalog, and
        // continue to do so if the rows can't be read.
        let catalog = Catalog::default();
        self.header = load(&self.db, rows, &catalog)?;
        self.catalog.replace_with(catalog);
        self.staged.clear();
        self.rows = rows;
        Ok(())
    }
}
