//! Commands on buckets and accounts.

use cloudkv_proto::v1 as pb;

use super::catalog::{Bucket, is_idle_account, ttl_from_nanos};
use super::command_refusal::{CommandRefusal, CommandResult};
use super::plans::{access_from_pb, plan_from_pb};
use super::state::MetaState;
use crate::store::RowBatch;
use crate::types::{AccountId, BucketId, Nanos, Plan};

impl MetaState {
    pub(super) fn create_bucket(
        &mut self,
        time: Nanos,
        create: &pb::CreateBucket,
        batch: &mut RowBatch,
    ) -> CommandResult {
        let (id, owner) = (
            parse_bucket_id(&create.bucket)?,
            parse_account_id(&create.account)?,
        );
        let access = access_from_pb(create.access()).ok_or(CommandRefusal::Malformed)?;
        let plan = plan_from_pb(create.plan()).ok_or(CommandRefusal::Malformed)?;
        if self.catalog.any_bucket(&id).is_some() {
            return Err(CommandRefusal::NameTaken);
        }
        let mut account = self.account_for_bucket(time, owner, create)?;
        if is_reached(self.catalog.bucket_count(), create.max_buckets) {
            return Err(CommandRefusal::ClusterFull);
        }
        let terms = self.catalog.plan(plan).ok_or(CommandRefusal::Malformed)?;
        if !terms.access.contains(&access) {
            return Err(CommandRefusal::AccessNotInPlan);
        }
        self.check_bucket_limit(owner, plan)?;
        account.buckets += 1;
        account.empty_since = 0;
        self.put_account(owner, account, batch);
        let bucket = Bucket {
            id,
            owner,
            access,
            plan,
            limits: terms.limits,
            comment: create.comment.clone(),
            default_ttl: ttl_from_nanos(create.default_ttl),
            created_at: time,
            is_dropping: false,
            dropped_in: Vec::new(),
            usage: Default::default(),
        };
        self.put_bucket(bucket, batch);
        Ok(())
    }

    fn account_for_bucket(
        &self,
        time: Nanos,
        owner: AccountId,
        create: &pb::CreateBucket,
    ) -> Result<pb::Account, CommandRefusal> {
        match (self.catalog.account(&owner), create.new_account) {
            (Some(account), false) => Ok(account),
            (None, false) => Err(CommandRefusal::UnknownAccount),
            (Some(_), true) => Err(CommandRefusal::NameTaken),
            (None, true) if is_reached(self.catalog.account_count(), create.max_accounts) => {
                Err(CommandRefusal::TooManyAccounts)
            }
            (None, true) => Ok(pb::Account {
                created_at: time,
                ..Default::default()
            }),
        }
    }

    fn check_bucket_limit(&self, owner: AccountId, plan: Plan) -> Result<(), CommandRefusal> {
        let limit = self.catalog.plan(plan).and_then(|terms| terms.buckets);
        let Some(limit) = limit else { return Ok(()) };
        let buckets = self.catalog.buckets_of(&owner);
        let of_plan = buckets.iter().filter(|bucket| bucket.plan == plan).count();
        if is_reached(of_plan, limit) {
            Err(CommandRefusal::TooManyBuckets { limit })
        } else {
            Ok(())
        }
    }

    pub(super) fn modify_bucket(
        &mut self,
        modify: &pb::ModifyBucket,
        batch: &mut RowBatch,
    ) -> CommandResult {
        let bucket = self.live_bucket(&modify.bucket)?;
        let plan = plan_from_pb(modify.plan()).unwrap_or(bucket.plan);
        let terms = self.catalog.plan(plan).ok_or(CommandRefusal::Malformed)?;
        if plan != bucket.plan {
            if !terms.access.contains(&bucket.access) {
                return Err(CommandRefusal::AccessNotInPlan);
            }
            self.check_bucket_limit(bucket.owner, plan)?;
        }
        let comment = match (&modify.comment, modify.clear_comment) {
            (_, true) => None,
            (Some(comment), false) => Some(comment.clone()),
            (None, false) => bucket.comment.clone(),
        };
        let default_ttl = match modify.default_ttl {
            Some(nanos) => ttl_from_nanos(nanos),
            None => bucket.default_ttl,
        };
        let usage = bucket.usage.clone();
        let changed = Bucket {
            plan,
            limits: terms.limits,
            comment,
            default_ttl,
            dropped_in: Vec::new(),
            usage,
            ..*bucket
        };
        self.put_bucket(changed, batch);
        Ok(())
    }

    pub(super) fn delete_bucket(
        &mut self,
        time: Nanos,
        id: &[u8],
        batch: &mut RowBatch,
    ) -> CommandResult {
        let bucket = self.live_bucket(id)?;
        let mut account = self.catalog.account(&bucket.owner).unwrap_or_default();
        account.buckets = account.buckets.saturating_sub(1);
        if account.buckets == 0 {
            account.empty_since = time;
        }
        self.put_account(bucket.owner, account, batch);
        let dropping = Bucket {
            is_dropping: true,
            dropped_in: Vec::new(),
            limits: bucket.limits.clone(),
            comment: bucket.comment.clone(),
            usage: bucket.usage.clone(),
            ..*bucket
        };
        self.put_bucket(dropping, batch);
        Ok(())
    }

    /// Removes a bucket once the shards of every region have dropped it.
    pub(super) fn bucket_dropped(
        &mut self,
        dropped: &pb::BucketDropped,
        batch: &mut RowBatch,
    ) -> CommandResult {
        let id = parse_bucket_id(&dropped.bucket)?;
        let bucket = self.catalog.any_bucket(&id);
        let bucket = bucket.filter(|bucket| bucket.is_dropping);
        let bucket = bucket.ok_or(CommandRefusal::UnknownBucket)?;
        let mut dropped_in = bucket.dropped_in.clone();
        if !dropped_in.contains(&dropped.region) {
            dropped_in.push(dropped.region);
        }
        let mut regions = self.header.regions.iter();
        if dropped.region == 0 || regions.all(|region| dropped_in.contains(&region.number)) {
            self.remove_bucket(id, batch);
        } else {
            let bucket = Bucket {
                dropped_in,
                limits: bucket.limits.clone(),
                comment: bucket.comment.clone(),
                usage: bucket.usage.clone(),
                ..*bucket
            };
            self.put_bucket(bucket, batch);
        }
        Ok(())
    }

    /// Removes dropped buckets that waited only for regions that are removed by now.
    pub(super) fn remove_dropped_buckets(&mut self, batch: &mut RowBatch) {
        let regions: Vec<u32> = self.header.regions.iter().map(|it| it.number).collect();
        let is_dropped = |bucket: &Bucket| {
            let mut regions = regions.iter();
            bucket.is_dropping && regions.all(|region| bucket.dropped_in.contains(region))
        };
        let mut done: Vec<_> = self.catalog.buckets_where(is_dropped);
        // All replicas use the same order.
        done.sort_unstable_by_key(|bucket| bucket.id);
        for bucket in done {
            self.remove_bucket(bucket.id, batch);
        }
    }

    pub(super) fn expire_accounts(
        &mut self,
        expire: pb::ExpireAccounts,
        batch: &mut RowBatch,
    ) -> CommandResult {
        let mut idle = self
            .catalog
            .accounts_where(|account| is_idle_account(account, expire.before));
        // All replicas remove the same accounts.
        idle.sort_unstable();
        idle.truncate(expire.limit as usize);
        for id in idle {
            self.remove_account(id, batch);
        }
        Ok(())
    }

    fn live_bucket(&self, id: &[u8]) -> Result<std::sync::Arc<Bucket>, CommandRefusal> {
        self.catalog
            .bucket(&parse_bucket_id(id)?)
            .ok_or(CommandRefusal::UnknownBucket)
    }
}

fn parse_bucket_id(bytes: &[u8]) -> Result<BucketId, CommandRefusal> {
    BucketId::parse(bytes).ok_or(CommandRefusal::Malformed)
}

pub(super) fn parse_account_id(bytes: &[u8]) -> Result<AccountId, CommandRefusal> {
    bytes
        .try_into()
        .map(AccountId)
        .map_err(|_| CommandRefusal::Malformed)
}

/// Returns whether `count` has reached `limit`; 0 means no limit.
fn is_reached(count: usize, limit: u64) -> bool {
    limit != 0 && count as u64 >= limit
}
