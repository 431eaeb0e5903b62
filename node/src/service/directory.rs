//! Accounts and buckets.

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

/// How often a new bucket's name is drawn again, if it should be taken.
const NAME_TRIES: usize = 3;

/// Buckets that a listing looks at before it lets other requests go on.
const YIELD_EVERY: usize = 32;

/// Buckets of a list that are summed up at once.
const SUMMARIES_AT_ONCE: usize = 64;

/// What the operator allows.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// Number of the node's region.
    pub region: u32,
    /// Whether users choose plans themselves.
    pub self_service: bool,
    /// Accounts of the cluster.
    pub max_accounts: u64,
    /// Buckets of the cluster.
    pub max_buckets: u64,
    /// How long published counts stand.
    pub stats_interval: Duration,
    /// After what time an account without buckets goes; zero: never.
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
    /// What the metadata takes while disks fill up.
    pub gate: Arc<Gate>,
    /// What the leader was asked for a moment ago, in vain.
    pub absent: Absent,
    /// A bucket was deleted: its rows are to be dropped.
    pub deleted: tokio::sync::Notify,
    /// Held while an operator changes a plan's limits.
    pub plan_changes: tokio::sync::Mutex<()>,
}

impl Directory {
    /// The directory that `metadata` replicates into `catalog`.
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

    /// The way to the metadata's leader.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// Reads a session token. What this node doesn't know it asks for at the metadata's leader.
    pub async fn session(&self, token: &str) -> Result<Result<Session, SessionError>, Unavailable> {
        let topology = self.inner.catalog.topology();
        match Session::parse(token, &topology) {
            Err(SessionError::Gone) => {}
            known => return Ok(known),
        }
        self.inner.metadata.barrier().await?;
        Ok(Session::parse(token, &self.inner.catalog.topology()))
    }

    /// The regions, if there are several.
    pub fn regions(&self) -> Option<Arc<Topology>> {
        let catalog = &self.inner.catalog;
        catalog.has_regions().then(|| catalog.topology())
    }

    /// A bucket that this node doesn't know: asked for at the metadata's leader.
    pub async fn find_bucket(&self, id: &BucketId) -> Result<Option<Arc<Bucket>>, Unavailable> {
        if self.inner.absent.knows(id.as_bytes()) {
            return Ok(None);
        }
        let asked = Instant::now();
        self.inner.metadata.barrier().await?;
        let found = self.bucket(id);
        if found.is_none() {
            self.inner.absent.note(id.as_bytes(), asked);
        }
        Ok(found)
    }

    /// The account of a key that this node doesn't know: asked for at the metadata's leader.
    pub async fn find_account(&self, api_key: &str) -> Result<Option<AccountId>, Unavailable> {
        let Ok(key) = uuid::Uuid::try_parse(api_key) else {
            return Ok(None);
        };
        let account = account_of(&key);
        if self.inner.absent.knows(&account.0) {
            return Ok(None);
        }
        let asked = Instant::now();
        self.inner.metadata.barrier().await?;
        let found = self.authenticate(api_key);
        if found.is_none() {
            self.inner.absent.note(&account.0, asked);
        }
        Ok(found)
    }

    /// A bucket, from memory.
    pub fn bucket(&self, id: &BucketId) -> Option<Arc<Bucket>> {
        self.inner.catalog.bucket(id)
    }

    /// The account of a key, from memory; `None` if there is none.
    pub fn authenticate(&self, api_key: &str) -> Option<AccountId> {
        let key = uuid::Uuid::try_parse(api_key).ok()?;
        let account = account_of(&key);
        self.inner.catalog.has_account(&account).then_some(account)
    }

    /// Creates a bucket, and an account for it unless it joins one.
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

    /// The plan asked for, or the lowest that offers the access mode.
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

    /// The buckets of an account, in the order of their creation.
    pub async fn list_buckets(
        &self,
        account: AccountId,
    ) -> Result<Vec<BucketSummary>, DirectoryError> {
        self.check_readable().await?;
        let (buckets, silent) = (self.inner.catalog.buckets_of(&account), &Silent::default());
        let mut summaries = Vec::with_capacity(buckets.len());
        let made = buckets
            .into_iter()
            .map(|bucket| async move { self.summary(&bucket, silent).await });
        // Each asks other regions: one after the other, a long list would take that many round trips.
        let mut made = stream::iter(made).buffered(SUMMARIES_AT_ONCE);
        while let Some(summary) = made.next().await {
            summaries.push(summary?);
            if summaries.len() % YIELD_EVERY == 0 {
                // Most of it is answered from memory, without a pause for other requests.
                tokio::task::yield_now().await;
            }
        }
        Ok(summaries)
    }

    async fn summary(
        &self,
        bucket: &Bucket,
        silent: &Silent,
    ) -> Result<BucketSummary, DirectoryError> {
        let elsewhere = self.reads_elsewhere(bucket, silent);
        let (here, elsewhere) = futures_util::join!(self.reads_here(bucket), elsewhere);
        let (hits, misses) = here.map_err(key_error)?;
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

    /// The published number of keys; counted anew when the last one is too old.
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

    /// Changes a bucket of `account`.
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

    /// Whether all that a bucket is and holds is within another plan.
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
        // What has expired is counted until it is removed.
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
            let found = self.inner.shards.run(shard, &larger).await;
            if found.map_err(key_error)? {
                return exceeds(format!(
                    "it holds keys above {key_bytes} or values above {value_bytes} bytes"
                ));
            }
        }
        Ok(())
    }

    /// A bucket, if it belongs to `account`.
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

    /// Answers when this node knows all that was acknowledged before the call.
    pub(super) async fn check_readable(&self) -> Result<(), DirectoryError> {
        Ok(self.inner.metadata.barrier().await?)
    }

    /// Proposes a command, and waits for its answer within the time that a request has.
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

/// An error of the shards, met while counting.
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
