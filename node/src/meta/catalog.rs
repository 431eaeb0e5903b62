//! The metadata in memory, as every request reads it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cloudkv_proto::v1 as pb;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::plans::{Limits, PlanTerms};
use super::published::Published;
use super::topology::Topology;
use super::usage::Usage;
use crate::types::{Access, AccountId, BucketId, Nanos, Plan};

/// A bucket as requests need it. Replaced, never changed; what is counted stays.
#[derive(Debug)]
pub struct Bucket {
    /// Its name.
    pub id: BucketId,
    /// The account that it belongs to.
    pub owner: AccountId,
    /// Who may use it.
    pub access: Access,
    /// Its plan.
    pub plan: Plan,
    /// What its plan lets it hold.
    pub limits: Arc<Limits>,
    /// The user's note on it.
    pub comment: Option<String>,
    /// When it was created.
    pub created_at: Nanos,
    /// It is deleted; the shards are dropping its rows.
    pub dropping: bool,
    /// The regions whose shards have dropped its rows.
    pub dropped_in: Vec<u32>,
    /// What this node counts of it.
    pub usage: Arc<Usage>,
}

impl Bucket {
    /// Counts a read of one of its keys.
    pub fn count_read(&self, found: bool) {
        self.usage.count_read(found);
    }

    pub(super) fn to_pb(&self) -> pb::Bucket {
        pb::Bucket {
            account: bytes::Bytes::copy_from_slice(&self.owner.0),
            access: super::plans::access_to_pb(self.access).into(),
            plan: super::plans::plan_to_pb(self.plan).into(),
            comment: self.comment.clone(),
            created_at: self.created_at,
            dropping: self.dropping,
            dropped_in: self.dropped_in.clone(),
        }
    }
}

/// An account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Its row.
    pub row: pb::Account,
    /// Its buckets, in the order of their creation, those that are being dropped left out.
    pub buckets: Vec<BucketId>,
}

type Buckets = HashMap<BucketId, Arc<Bucket>>;

/// Parts of the buckets, each under a lock of its own, so that a walk over all of them never
/// holds up more than a part.
const PARTS: usize = 64;

/// Dropped buckets whose space is given back at once; that of others comes back in time.
const MAX_FORGOTTEN: usize = 10_000;

/// All metadata.
#[derive(Debug)]
pub struct Catalog {
    cluster: Published,
    plans: ArcSwap<HashMap<Plan, PlanTerms>>,
    buckets: [RwLock<Buckets>; PARTS],
    dropping: RwLock<HashSet<BucketId>>,
    /// Dropped buckets whose space this node may give back; a few are forgotten rather than many
    /// kept: it comes back by itself in time.
    forgotten: Mutex<Vec<BucketId>>,
    accounts: RwLock<HashMap<AccountId, Account>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            cluster: Published::default(),
            plans: ArcSwap::from_pointee(HashMap::new()),
            buckets: std::array::from_fn(|_| RwLock::default()),
            dropping: RwLock::default(),
            forgotten: Mutex::default(),
            accounts: RwLock::default(),
        }
    }
}

impl Catalog {
    /// The cluster's own row.
    pub fn header(&self) -> Arc<pb::MetaHeader> {
        self.cluster.header()
    }

    /// Regions, nodes and the placement of shards, as last written.
    pub fn topology(&self) -> Arc<Topology> {
        self.cluster.topology()
    }

    /// Whether there are several regions.
    pub fn has_regions(&self) -> bool {
        self.cluster.has_regions()
    }

    /// A number that changes whenever the topology does, or the header in more than its digest.
    /// Whoever sees the change sees the new ones.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.cluster.changes()
    }

    /// The part of a bucket. Names are random, so any of their characters spread them.
    fn part(&self, id: &BucketId) -> &RwLock<Buckets> {
        let [.., a, b] = *id.as_bytes();
        &self.buckets[(usize::from(a) * 61 + usize::from(b)) % PARTS]
    }

    /// A bucket that is in use.
    pub fn bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.any_bucket(id).filter(|bucket| !bucket.dropping)
    }

    /// A bucket, also one that is being dropped.
    pub(super) fn any_bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.part(id).read().get(id).cloned()
    }

    /// Number of buckets, those that are being dropped included.
    pub fn bucket_count(&self) -> usize {
        self.buckets.iter().map(|part| part.read().len()).sum()
    }

    /// Number of accounts.
    pub fn account_count(&self) -> usize {
        self.accounts.read().len()
    }

    /// Buckets for which `choose` holds.
    pub fn buckets_where(&self, choose: impl Fn(&Bucket) -> bool) -> Vec<Arc<Bucket>> {
        let mut chosen = Vec::new();
        for part in &self.buckets {
            chosen.extend(
                part.read()
                    .values()
                    .filter(|bucket| choose(bucket))
                    .cloned(),
            );
        }
        chosen
    }

    /// Buckets that are deleted and whose rows are to be dropped.
    pub fn dropping(&self, region: u32) -> Vec<BucketId> {
        let dropping: Vec<BucketId> = self.dropping.read().iter().copied().collect();
        let left = |id: &BucketId| {
            let bucket = self.any_bucket(id);
            bucket.is_some_and(|bucket| !bucket.dropped_in.contains(&region))
        };
        dropping.into_iter().filter(left).collect()
    }

    /// Whether an account is left without a bucket since before a time.
    pub fn has_idle_account(&self, before: Nanos) -> bool {
        let idle = |account: &Account| is_idle(&account.row, before);
        self.accounts.read().values().any(idle)
    }

    /// Whether there is such an account.
    pub fn has_account(&self, id: &AccountId) -> bool {
        self.accounts.read().contains_key(id)
    }

    /// The buckets of an account, in the order of their creation.
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

    pub(super) fn account(&self, id: &AccountId) -> Option<pb::Account> {
        self.accounts.read().get(id).map(|account| account.row)
    }

    pub(super) fn accounts_where(&self, choose: impl Fn(&pb::Account) -> bool) -> Vec<AccountId> {
        let accounts = self.accounts.read();
        accounts
            .iter()
            .filter(|(_, account)| choose(&account.row))
            .map(|(id, _)| *id)
            .collect()
    }

    /// A plan's terms; `None` before the cluster is founded.
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
        let (id, owner, gone) = (bucket.id, bucket.owner, bucket.dropping);
        let (budget, limit) = (bucket.usage.budget.clone(), bucket.limits.keys);
        self.part(&id).write().insert(id, Arc::new(bucket));
        budget.set_limit(limit);
        if gone {
            self.dropping.write().insert(id);
        }
        let mut accounts = self.accounts.write();
        // The account of a bucket that is being dropped may be gone already.
        let Some(account) = accounts.get_mut(&owner) else {
            return;
        };
        let ids = &mut account.buckets;
        if gone {
            ids.retain(|other| *other != id);
        } else if !ids.contains(&id) {
            ids.push(id);
        }
    }

    pub(super) fn remove_bucket(&self, id: &BucketId) {
        self.part(id).write().remove(id);
        self.dropping.write().remove(id);
        let mut forgotten = self.forgotten.lock();
        if forgotten.len() < MAX_FORGOTTEN {
            forgotten.push(*id);
        }
    }

    /// Buckets that all shards have dropped since the last call.
    pub fn take_forgotten(&self) -> Vec<BucketId> {
        std::mem::take(&mut self.forgotten.lock())
    }

    /// Puts each account's buckets in the order of their creation, after loading.
    pub(super) fn sort(&self) {
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
        for part in &self.buckets {
            for bucket in part
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
                bucket.usage.budget.set_limit(limits.keys);
                bucket.usage.byte_quota.reset();
            }
        }
    }

    /// Takes over all that `other` holds. A bucket or account that is in both is seen throughout: a
    /// request that doesn't find it would be told that there is none.
    pub(super) fn replace_by(&self, other: Self) {
        let (header, topology) = (other.header(), other.topology());
        self.plans.store(other.plans.load_full());
        for (part, new) in self.buckets.iter().zip(other.buckets) {
            *part.write() = new.into_inner();
        }
        *self.dropping.write() = other.dropping.into_inner();
        *self.accounts.write() = other.accounts.into_inner();
        self.publish(
            pb::MetaHeader::clone(&header),
            Some(Topology::clone(&topology)),
        );
    }
}

/// Whether an account is left without a bucket since before a time.
pub(super) fn is_idle(account: &pb::Account, before: Nanos) -> bool {
    account.buckets == 0 && account.empty_since < before
}
