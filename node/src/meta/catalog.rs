//! Metadata in memory, as every request reads it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cloudkv_proto::v1 as pb;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::cluster_view::ClusterView;
use super::plans::{BucketLimits, PlanTerms};
use super::topology::Topology;
use super::usage::BucketUsage;
use crate::types::{Access, AccountId, BucketId, Nanos, Plan, to_nanos};

/// Bucket as requests need it. It is replaced on change, never mutated; the counters are kept.
#[derive(Debug)]
pub struct Bucket {
    /// Name of the bucket.
    pub id: BucketId,
    /// Account that owns the bucket.
    pub owner: AccountId,
    /// Access mode.
    pub access: Access,
    /// Plan of the bucket.
    pub plan: Plan,
    /// Limits of the plan.
    pub limits: Arc<BucketLimits>,
    /// Comment of the user.
    pub comment: Option<String>,
    /// Time to live of writes that name no expiry; `None`: they never expire.
    pub default_ttl: Option<Duration>,
    /// Time of creation.
    pub created_at: Nanos,
    /// True once the bucket is deleted: the shards are dropping its rows.
    pub is_dropping: bool,
    /// Regions whose shards have dropped the bucket's rows.
    pub dropped_in: Vec<u32>,
    /// Counters of this node for the bucket.
    pub usage: Arc<BucketUsage>,
}

impl Bucket {
    /// Counts a read of one of its keys.
    pub fn count_read(&self, is_hit: bool) {
        self.usage.count_read(is_hit);
    }

    /// Returns its stored row.
    pub(crate) fn to_pb(&self) -> pb::Bucket {
        pb::Bucket {
            account: bytes::Bytes::copy_from_slice(&self.owner.0),
            access: super::plans::access_to_pb(self.access).into(),
            plan: super::plans::plan_to_pb(self.plan).into(),
            comment: self.comment.clone(),
            created_at: self.created_at,
            dropping: self.is_dropping,
            dropped_in: self.dropped_in.clone(),
            default_ttl: self.default_ttl.map_or(0, to_nanos),
        }
    }
}

/// Converts a stored default time to live; 0 is none.
pub(super) fn ttl_from_nanos(nanos: u64) -> Option<Duration> {
    (nanos != 0).then(|| Duration::from_nanos(nanos))
}

/// Account with its buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Stored row.
    pub row: pb::Account,
    /// Buckets in the order of their creation, without those that are being dropped.
    pub buckets: Vec<BucketId>,
}

type Buckets = HashMap<BucketId, Arc<Bucket>>;

/// Number of partitions of the buckets, each under its own lock, so that an iteration over all
/// buckets never blocks more than one partition.
const BUCKET_PARTITIONS: usize = 64;

/// Maximum number of dropped buckets whose space is reclaimed at once; compaction reclaims that of
/// others in time.
const MAX_RECLAIMABLE_BUCKETS: usize = 10_000;

/// All metadata, in memory.
#[derive(Debug)]
pub struct Catalog {
    cluster: ClusterView,
    plans: ArcSwap<HashMap<Plan, PlanTerms>>,
    buckets: [RwLock<Buckets>; BUCKET_PARTITIONS],
    dropping: RwLock<HashSet<BucketId>>,
    /// Dropped buckets whose space this node may reclaim. The list is bounded: the space of a
    /// bucket that isn't listed is reclaimed by compaction in time.
    reclaimable: Mutex<Vec<BucketId>>,
    accounts: RwLock<HashMap<AccountId, Account>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            cluster: ClusterView::default(),
            plans: ArcSwap::from_pointee(HashMap::new()),
            buckets: std::array::from_fn(|_| RwLock::default()),
            dropping: RwLock::default(),
            reclaimable: Mutex::default(),
            accounts: RwLock::default(),
        }
    }
}

impl Catalog {
    /// Header of the metadata: the cluster's own row.
    pub fn header(&self) -> Arc<pb::MetaHeader> {
        self.cluster.header()
    }

    /// Regions, nodes and placements of shards, as last written.
    pub fn topology(&self) -> Arc<Topology> {
        self.cluster.topology()
    }

    /// Returns whether there are several regions.
    pub fn has_several_regions(&self) -> bool {
        self.cluster.has_several_regions()
    }

    /// Subscribes to a number that changes with the topology, and with the header in more than its
    /// digest. A subscriber that sees the change sees the new topology and header.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.cluster.changes()
    }

    /// Partition of a bucket. Names are random, so any of their characters spread them.
    fn partition(&self, id: &BucketId) -> &RwLock<Buckets> {
        let [.., a, b] = *id.as_bytes();
        &self.buckets[(usize::from(a) * 61 + usize::from(b)) % BUCKET_PARTITIONS]
    }

    /// Bucket that is in use.
    pub fn bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.any_bucket(id).filter(|bucket| !bucket.is_dropping)
    }

    /// Bucket, including one that is being dropped.
    pub(super) fn any_bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.partition(id).read().get(id).cloned()
    }

    /// Number of buckets, including those that are being dropped.
    pub fn bucket_count(&self) -> usize {
        self.buckets
            .iter()
            .map(|partition| partition.read().len())
            .sum()
    }

    /// Number of accounts.
    pub fn account_count(&self) -> usize {
        self.accounts.read().len()
    }

    /// Buckets for which `matches` holds.
    pub fn buckets_where(&self, matches: impl Fn(&Bucket) -> bool) -> Vec<Arc<Bucket>> {
        let mut chosen = Vec::new();
        for partition in &self.buckets {
            chosen.extend(
                partition
                    .read()
                    .values()
                    .filter(|bucket| matches(bucket))
                    .cloned(),
            );
        }
        chosen
    }

    /// Deleted buckets whose rows the region's shards still have to drop.
    pub fn buckets_to_drop(&self, region: u32) -> Vec<BucketId> {
        let dropping: Vec<BucketId> = self.dropping.read().iter().copied().collect();
        let is_pending = |id: &BucketId| {
            let bucket = self.any_bucket(id);
            bucket.is_some_and(|bucket| !bucket.dropped_in.contains(&region))
        };
        dropping.into_iter().filter(is_pending).collect()
    }

    /// Returns whether any account has had no bucket since before `before`.
    pub fn has_idle_account(&self, before: Nanos) -> bool {
        let predicate = |account: &Account| is_idle_account(&account.row, before);
        self.accounts.read().values().any(predicate)
    }

    /// Returns whether the account exists.
    pub fn has_account(&self, id: &AccountId) -> bool {
        self.accounts.read().contains_key(id)
    }

    /// Buckets of an account, in the order of their creation.
    pub fn buckets_of(&self, id: &AccountId) -> Vec<Arc<Bucket>> {
        let ids = self
            .accounts
            .read()
            .get(id)
            .map(|account| account.buckets.clone());
        ids.unwrap_or_default()
            .iter()
            .filter_map(|id| self.bucket(id))
            .collect()
    }

    /// Stored rows of all accounts.
    pub fn account_rows(&self) -> Vec<(AccountId, pb::Account)> {
        let accounts = self.accounts.read();
        accounts
            .iter()
            .map(|(id, account)| (*id, account.row))
            .collect()
    }

    /// Stored rows of all plans.
    pub fn plan_rows(&self) -> Vec<pb::PlanLimits> {
        let plans = self.plans.load();
        let row = |(plan, terms): (&Plan, &PlanTerms)| terms.to_pb(*plan);
        plans.iter().map(row).collect()
    }

    pub(super) fn account(&self, id: &AccountId) -> Option<pb::Account> {
        self.accounts.read().get(id).map(|account| account.row)
    }

    pub(super) fn accounts_where(&self, matches: impl Fn(&pb::Account) -> bool) -> Vec<AccountId> {
        let accounts = self.accounts.read();
        accounts
            .iter()
            .filter(|(_, account)| matches(&account.row))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Terms of a plan; `None` before the cluster is bootstrapped.
    pub fn plan(&self, plan: Plan) -> Option<PlanTerms> {
        self.plans.load().get(&plan).cloned()
    }

    pub(super) fn publish(&self, header: pb::MetaHeader, topology: Option<Topology>) {
        self.cluster.publish(header, topology);
    }

    pub(super) fn put_account(&self, id: AccountId, row: pb::Account) {
        self.accounts.write().entry(id).or_default().row = row;
    }

    pub(super) fn remove_account(&self, id: &AccountId) {
        self.accounts.write().remove(id);
    }

    pub(super) fn put_bucket(&self, bucket: Bucket) {
        let (id, owner, is_dropping) = (bucket.id, bucket.owner, bucket.is_dropping);
        let (quota, limit) = (bucket.usage.key_quota.clone(), bucket.limits.keys);
        self.partition(&id).write().insert(id, Arc::new(bucket));
        quota.set_limit(limit);
        if is_dropping {
            self.dropping.write().insert(id);
        }
        let mut accounts = self.accounts.write();
        // The account of a bucket that is being dropped may be removed already.
        let Some(account) = accounts.get_mut(&owner) else {
            return;
        };
        let ids = &mut account.buckets;
        if is_dropping {
            ids.retain(|other| *other != id);
        } else if !ids.contains(&id) {
            ids.push(id);
        }
    }

    pub(super) fn remove_bucket(&self, id: &BucketId) {
        self.partition(id).write().remove(id);
        self.dropping.write().remove(id);
        let mut forgotten = self.reclaimable.lock();
        if forgotten.len() < MAX_RECLAIMABLE_BUCKETS {
            forgotten.push(*id);
        }
    }

    /// Takes the buckets that all shards have dropped since the last call.
    pub fn take_reclaimable(&self) -> Vec<BucketId> {
        std::mem::take(&mut self.reclaimable.lock())
    }

    /// Sorts each account's buckets by their creation, after loading.
    pub(super) fn sort_account_buckets(&self) {
        let created = |id: &BucketId| self.any_bucket(id).map(|bucket| (bucket.created_at, *id));
        for account in self.accounts.write().values_mut() {
            account.buckets.sort_by_cached_key(created);
        }
    }

    pub(super) fn put_plan(&self, plan: Plan, terms: PlanTerms) {
        let mut plans = HashMap::clone(&self.plans.load());
        let limits = terms.limits.clone();
        plans.insert(plan, terms);
        self.plans.store(Arc::new(plans));
        for partition in &self.buckets {
            for bucket in partition
                .write()
                .values_mut()
                .filter(|bucket| bucket.plan == plan)
            {
                *bucket = Arc::new(Bucket {
                    limits: limits.clone(),
                    comment: bucket.comment.clone(),
                    dropped_in: bucket.dropped_in.clone(),
                    usage: bucket.usage.clone(),
                    ..**bucket
                });
                bucket.usage.key_quota.set_limit(limits.keys);
                bucket.usage.byte_quota.reset();
            }
        }
    }

    /// Replaces the content with that of `other`. A bucket or account in both stays visible
    /// throughout: otherwise a request would be told that it doesn't exist.
    pub(super) fn replace_with(&self, other: Self) {
        let (header, topology) = (other.header(), other.topology());
        self.plans.store(other.plans.load_full());
        for (partition, new) in self.buckets.iter().zip(other.buckets) {
            *partition.write() = new.into_inner();
        }
        *self.dropping.write() = other.dropping.into_inner();
        *self.accounts.write() = other.accounts.into_inner();
        self.publish(
            pb::MetaHeader::clone(&header),
            Some(Topology::clone(&topology)),
        );
    }
}

/// Returns whether an account has had no bucket since before `before`.
pub(super) fn is_idle_account(account: &pb::Account, before: Nanos) -> bool {
    account.buckets == 0 && account.empty_since < before
}
