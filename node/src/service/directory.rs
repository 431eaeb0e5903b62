//! Accounts and buckets: looks them up, creates, lists and modifies them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};

use super::absent::Absent;
use super::errors::{DirectoryError, KeyError, Unavailable};
use super::metadata::Metadata;
use super::reads::Larger;
use super::reports::Silent;
use super::session::{Session, SessionError};
use super::shards::Shards;
use crate::clock::Clock;
use crate::meta::{Bucket, Catalog, Refusal, Topology, access_to_pb, plan_to_pb};
use crate::store::Gate;
use crate::types::{
    Access, AccountId, BucketId, BucketSummary, CreateBucket, CreatedBucket, ModifyBucket, Plan,
};

/// Maximum number of names that are drawn for a new bucket, if one should be taken.
const NAME_TRIES: usize = 3;

/// Number of buckets after which a listing yields to other requests.
const YIELD_EVERY: usize = 32;

/// Maximum number of a list's buckets that are summarized concurrently.
const SUMMARIES_AT_ONCE: usize = 64;

/// Limits that the operator sets on accounts and buckets.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// Number of the node's region.
    pub region: u32,
    /// True if users choose plans themselves.
    pub self_service: bool,
    /// Maximum number of accounts in the cluster.
    pub max_accounts: u64,
    /// Maximum number of buckets in the cluster.
    pub max_buckets: u64,
    /// Time for which published counts are valid.
    pub stats_interval: Duration,
    /// Time after which an account without buckets is deleted; zero: never.
    pub account_idle_ttl: Duration,
}

/// Accounts and buckets of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub metadata: Metadata,
    pub catalog: Arc<Catalog>,
    pub shards: Shards,
    pub clock: Clock,
    pub settings: DirectorySettings,
    /// Refuses what grows while the disks of the metadata's nodes fill up.
    pub gate: Arc<Gate>,
    /// Names that the leader was asked for a moment ago, and that don't exist.
    pub absent: Absent,
    /// Notified when a bucket was deleted, so that its rows are dropped.
    pub deleted: tokio::sync::Notify,
    /// Held while an operator changes a plan's limits.
    pub plan_changes: tokio::sync::Mutex<()>,
}

impl Directory {
    /// Creates the directory over `catalog`, which `metadata` replicates.
    pub fn new(
        metadata: Metadata,
        catalog: Arc<Catalog>,
        shards: Shards,
        clock: Clock,
        settings: DirectorySettings,
        gate: Arc<Gate>,
    ) -> Self {
        let deleted = tokio::sync::Notify::new();
        Self {
            inner: Arc::new(Inner {
                metadata,
                catalog,
                shards,
                clock,
                settings,
                gate,
                absent: Absent::default(),
                deleted,
                plan_changes: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Returns the client of the metadata's leader.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// Parses a session token. If it names a region that this node doesn't know, the metadata's
    /// leader is asked first.
    pub async fn session(&self, token: &str) -> Result<Result<Session, SessionError>, Unavailable> {
        let topology = self.inner.catalog.topology();
        match Session::parse(token, &topology) {
            Err(SessionError::Gone) => {}
            parsed => return Ok(parsed),
        }
        self.inner.metadata.barrier().await?;
        Ok(Session::parse(token, &self.inner.catalog.topology()))
    }

    /// Returns the topology if there are several regions.
    pub fn regions(&self) -> Option<Arc<Topology>> {
        let catalog = &self.inner.catalog;
        catalog.has_regions().then(|| catalog.topology())
    }

    /// Looks up a bucket that this node doesn't know at the metadata's leader.
    pub async fn find_bucket(&self, id: &BucketId) -> Result<Option<Arc<Bucket>>, Unavailable> {
        if self.inner.absent.knows(id.as_bytes()) {
            return Ok(None);
        }
        let queried_at = Instant::now();
        self.inner.metadata.barrier().await?;
        let bucket = self.bucket(id);
        if bucket.is_none() {
            self.inner.absent.note(id.as_bytes(), queried_at);
        }
        Ok(bucket)
    }

    /// Looks up the account of an API key that this node doesn't know at the metadata's leader.
    pub async fn find_account(&self, api_key: &str) -> Result<Option<AccountId>, Unavailable> {
        let Ok(key) = uuid::Uuid::try_parse(api_key) else {
            return Ok(None);
        };
        let account = account_of(&key);
        if self.inner.absent.knows(&account.0) {
            return Ok(None);
        }
        let queried_at = Instant::now();
        self.inner.metadata.barrier().await?;
        let owner = self.authenticate(api_key);
        if owner.is_none() {
            self.inner.absent.note(&account.0, queried_at);
        }
        Ok(owner)
    }

    /// Returns a bucket from this node's copy of the metadata.
    pub fn bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.inner.catalog.bucket(id)
    }

    /// Returns the account of an API key from this node's copy of the metadata.
    pub fn authenticate(&self, api_key: &str) -> Option<AccountId> {
        let key = uuid::Uuid::try_parse(api_key).ok()?;
        let account = account_of(&key);
        self.inner.catalog.has_account(&account).then_some(account)
    }

    /// Creates a bucket, and an account for it unless the request names one.
    pub async fn create_bucket(
        &self,
        request: CreateBucket,
    ) -> Result<CreatedBucket, DirectoryError> {
        let plan = self.plan_for(&request)?;
        if let Some(elsewhere) = self.inner.gate.refuses(true) {
            return Err(DirectoryError::DiskFull { elsewhere });
        }
        for _ in 0..NAME_TRIES {
            let new_key = match request.account {
                Some(_) => None,
                None => Some(random_key()?),
            };
            let account = request.account.or_else(|| new_key.as_ref().map(account_of));
            let Some(account) = account else {
                return Err(DirectoryError::UnknownAccount);
            };
            let id = BucketId::random().map_err(|error| DirectoryError::Storage(error.into()))?;
            let create = pb::CreateBucket {
                bucket: Bytes::copy_from_slice(id.as_bytes()),
                account: Bytes::copy_from_slice(&account.0),
                new_account: new_key.is_some(),
                access: access_to_pb(request.access).into(),
                plan: plan_to_pb(plan).into(),
                comment: request
                    .comment
                    .clone()
                    .filter(|comment| !comment.is_empty()),
                max_accounts: self.inner.settings.max_accounts,
                max_buckets: self.inner.settings.max_buckets,
            };
            match self.propose(Command::CreateBucket(create)).await? {
                Ok(()) => {
                    self.inner.metadata.spread().await;
                    let new_account_key = new_key.map(|key| key.to_string());
                    let access = request.access;
                    return Ok(CreatedBucket {
                        new_account_key,
                        id,
                        access,
                        plan,
                    });
                }
                Err(Refusal::NameTaken) => {}
                Err(refusal) => return Err(refused(refusal, plan, request.access)),
            }
        }
        Err(DirectoryError::UnknownOutcome)
    }

    /// Returns the requested plan, or the lowest that offers the access mode.
    fn plan_for(&self, request: &CreateBucket) -> Result<Plan, DirectoryError> {
        let access = request.access;
        let offers = |plan: &Plan| {
            self.inner
                .catalog
                .plan(*plan)
                .is_some_and(|terms| terms.access.contains(&access))
        };
        let plan = match request.plan {
            Some(plan) if !offers(&plan) => {
                return Err(DirectoryError::AccessNotInPlan { plan, access });
            }
            Some(plan) => plan,
            None => Plan::ALL.into_iter().find(offers).unwrap_or(Plan::Business),
        };
        self.check_self_service(plan)?;
        Ok(plan)
    }

    fn check_self_service(&self, plan: Plan) -> Result<(), DirectoryError> {
        if plan == Plan::Free || self.inner.settings.self_service {
            return Ok(());
        }
        Err(DirectoryError::PlanNotSelfService { plan })
    }

    /// Lists the buckets of an account, in the order of their creation.
    pub async fn list_buckets(
        &self,
        account: AccountId,
    ) -> Result<Vec<BucketSummary>, DirectoryError> {
        self.check_readable().await?;
        let buckets = self.inner.catalog.buckets_of(&account);
        let unresponsive = &Silent::default();
        let mut summaries = Vec::with_capacity(buckets.len());
        let pending = buckets
            .into_iter()
            .map(|bucket| async move { self.summary(&bucket, unresponsive).await });
        // Each asks other regions: sequentially, a long list would take that many round trips.
        let mut pending = stream::iter(pending).buffered(SUMMARIES_AT_ONCE);
        while let Some(summary) = pending.next().await {
            summaries.push(summary?);
            if summaries.len() % YIELD_EVERY == 0 {
                // Most summaries come from memory, without an await that lets others run.
                tokio::task::yield_now().await;
            }
        }
        Ok(summaries)
    }

    async fn summary(
        &self,
        bucket: &Bucket,
        unresponsive: &Silent,
    ) -> Result<BucketSummary, DirectoryError> {
        let elsewhere = self.reads_elsewhere(bucket, unresponsive);
        let (own_region, elsewhere) = futures_util::join!(self.reads_here(bucket), elsewhere);
        let (hits, misses) = own_region.map_err(key_error)?;
        Ok(BucketSummary {
            id: bucket.id,
            access: bucket.access,
            plan: bucket.plan,
            created_at: bucket.created_at,
            comment: bucket.comment.clone(),
            estimated_keys: self.published_keys(bucket).await?,
            key_get_success: hits + elsewhere.0,
            key_get_failed: misses + elsewhere.1,
        })
    }

    /// Returns the published number of keys; counts them anew if that is too old.
    async fn published_keys(&self, bucket: &Bucket) -> Result<u64, DirectoryError> {
        let now = self.inner.clock.now();
        let interval = u64::try_from(self.inner.settings.stats_interval.as_nanos());
        let since = now.saturating_sub(interval.unwrap_or(u64::MAX));
        if let Some(keys) = bucket.usage.published_since(since) {
            return Ok(keys);
        }
        let keys = self
            .inner
            .shards
            .count(&bucket.id, false)
            .await
            .map_err(key_error)?;
        Ok(bucket.usage.publish(keys, now, since))
    }

    /// Modifies a bucket of `account`.
    pub async fn modify_bucket(
        &self,
        account: AccountId,
        id: BucketId,
        change: ModifyBucket,
    ) -> Result<(), DirectoryError> {
        self.check_readable().await?;
        let bucket = self.owned(account, &id)?;
        let new_plan = change.plan.filter(|plan| *plan != bucket.plan);
        if let Some(plan) = new_plan {
            self.check_self_service(plan)?;
            self.check_fits(&bucket, plan).await?;
        }
        let clear_comment = change.comment.as_deref() == Some("");
        let modify = pb::ModifyBucket {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
            comment: change.comment.filter(|_| !clear_comment),
            clear_comment,
            plan: new_plan.map_or(pb::Plan::Unspecified, plan_to_pb).into(),
        };
        let plan = new_plan.unwrap_or(bucket.plan);
        let modified = self.propose(Command::ModifyBucket(modify)).await?;
        modified.map_err(|refusal| refused(refusal, plan, bucket.access))?;
        self.inner.metadata.spread().await;
        Ok(())
    }

    /// Fails if a bucket's access mode, keys or bytes exceed another plan.
    pub(super) async fn check_fits(
        &self,
        bucket: &Bucket,
        plan: Plan,
    ) -> Result<(), DirectoryError> {
        let Some(terms) = self.inner.catalog.plan(plan) else {
            return Ok(());
        };
        let exceeds = |what: String| Err(DirectoryError::ExceedsPlan { plan, what });
        if !terms.access.contains(&bucket.access) {
            return exceeds(format!("it does not offer access {}", bucket.access.name()));
        }
        // Expired keys are counted until they are removed.
        let states = self.inner.shards.states(&bucket.id, true).await;
        let states = states.map_err(key_error)?;
        let keys: u64 = states.iter().map(|state| state.keys).sum();
        let limits = terms.limits;
        if keys > limits.keys {
            return exceeds(format!(
                "the bucket holds {keys} keys, the plan {}",
                limits.keys
            ));
        }
        let bytes: u64 = states.iter().map(|state| state.bytes).sum();
        if let Some(limit) = limits.bytes.filter(|limit| bytes > *limit) {
            return exceeds(format!("the bucket holds {bytes} bytes, the plan {limit}"));
        }
        let (key_bytes, value_bytes) = (limits.key_bytes, limits.value_bytes);
        if key_bytes >= bucket.limits.key_bytes && value_bytes >= bucket.limits.value_bytes {
            return Ok(());
        }
        let larger = Larger {
            bucket: bucket.id.as_bytes(),
            key_bytes,
            value_bytes,
        };
        for shard in self.inner.shards.numbers() {
            let has_larger = self.inner.shards.run(shard, &larger).await;
            if has_larger.map_err(key_error)? {
                return exceeds(format!(
                    "it holds keys above {key_bytes} or values above {value_bytes} bytes"
                ));
            }
        }
        Ok(())
    }

    /// Returns a bucket if it belongs to `account`.
    pub(super) fn owned(
        &self,
        account: AccountId,
        id: &BucketId,
    ) -> Result<Arc<Bucket>, DirectoryError> {
        let bucket = self.bucket(id).ok_or(DirectoryError::UnknownBucket)?;
        if bucket.owner == account {
            Ok(bucket)
        } else {
            Err(DirectoryError::NotOwner)
        }
    }

    /// Waits until this node has applied all metadata that was acknowledged before the call.
    pub(super) async fn check_readable(&self) -> Result<(), DirectoryError> {
        Ok(self.inner.metadata.barrier().await?)
    }

    /// Proposes a command, and waits for its result within the request timeout.
    pub(super) async fn propose(
        &self,
        kind: Command,
    ) -> Result<Result<(), Refusal>, DirectoryError> {
        self.inner.metadata.propose(kind).await
    }
}

fn account_of(key: &uuid::Uuid) -> AccountId {
    AccountId(Sha256::digest(key.as_bytes()).into())
}

fn random_key() -> Result<uuid::Uuid, DirectoryError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| DirectoryError::Storage(error.into()))?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid())
}

/// Converts the metadata's refusal of a command about a bucket of `plan` and `access`.
pub(super) fn refused(refusal: Refusal, plan: Plan, access: Access) -> DirectoryError {
    match refusal {
        Refusal::UnknownBucket => DirectoryError::UnknownBucket,
        Refusal::UnknownAccount => DirectoryError::UnknownAccount,
        Refusal::AccessNotInPlan => DirectoryError::AccessNotInPlan { plan, access },
        Refusal::TooManyBuckets { limit } => DirectoryError::TooManyBuckets { plan, limit },
        Refusal::TooManyAccounts => DirectoryError::ClusterFull { what: "accounts" },
        Refusal::ClusterFull => DirectoryError::ClusterFull { what: "buckets" },
        Refusal::NameTaken
        | Refusal::Founded
        | Refusal::Malformed
        | Refusal::RegionJoining { .. }
        | Refusal::RegionLeaving { .. }
        | Refusal::LastRegion
        | Refusal::NoSuchRegion
        | Refusal::Node(_) => DirectoryError::UnknownOutcome,
    }
}

/// Converts an error that the shards returned while keys were counted.
pub(super) fn key_error(error: KeyError) -> DirectoryError {
    match error {
        KeyError::Unavailable(unavailable) => unavailable.into(),
        KeyError::Storage(error) | KeyError::Damaged(error) => DirectoryError::Storage(error),
        KeyError::BucketGone => DirectoryError::UnknownBucket,
        KeyError::DiskFull { elsewhere } => DirectoryError::DiskFull { elsewhere },
        KeyError::UnknownOutcome
        | KeyError::PreconditionFailed
        | KeyError::TooManyKeys { .. }
        | KeyError::TooManyBytes { .. } => DirectoryError::UnknownOutcome,
    }
}
