//! Accounts and buckets: looks them up, creates and modifies them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use sha2::{Digest, Sha256};

use super::errors::{DirectoryError, KeyError, Unavailable};
use super::metadata::MetadataClient;
use super::negative_cache::NegativeCache;
use super::reads::HasLarger;
use super::session::{SessionError, SessionToken};
use super::shards::Shards;
use crate::clock::Clock;
use crate::meta::{
    Bucket, Catalog, CommandRefusal, DEFAULT_TTL_LEVEL, Topology, access_to_pb, plan_to_pb,
};
use crate::store::WriteGate;
use crate::types::{
    Access, AccountId, BucketId, CreateBucket, CreatedBucket, ModifyBucket, Nanos, Plan, to_nanos,
};

/// Maximum number of names that are drawn for a new bucket, if one should be taken.
const MAX_NAME_ATTEMPTS: usize = 3;

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
    pub metadata: MetadataClient,
    pub catalog: Arc<Catalog>,
    pub shards: Shards,
    pub clock: Clock,
    pub settings: DirectorySettings,
    /// Refuses what grows while the disks of the metadata's nodes fill up.
    pub gate: Arc<WriteGate>,
    /// Names that the leader was asked for a moment ago, and that don't exist.
    pub negative_cache: NegativeCache,
    /// Notified when a bucket was deleted, so that its rows are dropped.
    pub bucket_deleted: tokio::sync::Notify,
    /// Held while an operator changes a plan's limits.
    pub plan_change_lock: tokio::sync::Mutex<()>,
}

impl Directory {
    /// Creates the directory over `catalog`, which `metadata` replicates.
    pub fn new(
        metadata: MetadataClient,
        catalog: Arc<Catalog>,
        shards: Shards,
        clock: Clock,
        settings: DirectorySettings,
        gate: Arc<WriteGate>,
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
                negative_cache: NegativeCache::default(),
                bucket_deleted: deleted,
                plan_change_lock: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Returns the client of the metadata's leader.
    pub fn metadata(&self) -> &MetadataClient {
        &self.inner.metadata
    }

    /// Returns the time of this node's clock.
    pub fn now(&self) -> Nanos {
        self.inner.clock.now()
    }

    /// Fails unless all nodes of the cluster support a feature level of the metadata.
    fn check_level(&self, level: u32) -> Result<(), Unavailable> {
        if self.inner.catalog.header().level >= level {
            Ok(())
        } else {
            Err(Unavailable::Upgrading)
        }
    }

    /// Parses a session token. If it names a region that this node doesn't know, the metadata's
    /// leader is asked first.
    pub async fn parse_session(
        &self,
        token: &str,
    ) -> Result<Result<SessionToken, SessionError>, Unavailable> {
        let topology = self.inner.catalog.topology();
        match SessionToken::parse(token, &topology) {
            Err(SessionError::UnknownRegion) => {}
            parsed => return Ok(parsed),
        }
        self.inner.metadata.barrier().await?;
        Ok(SessionToken::parse(token, &self.inner.catalog.topology()))
    }

    /// Returns the topology if there are several regions.
    pub fn multi_region_topology(&self) -> Option<Arc<Topology>> {
        let catalog = &self.inner.catalog;
        catalog.has_several_regions().then(|| catalog.topology())
    }

    /// Looks up a bucket that this node doesn't know at the metadata's leader.
    pub async fn find_bucket(&self, id: &BucketId) -> Result<Option<Arc<Bucket>>, Unavailable> {
        if self.inner.negative_cache.contains(id.as_bytes()) {
            return Ok(None);
        }
        let queried_at = Instant::now();
        self.inner.metadata.barrier().await?;
        let bucket = self.bucket(id);
        if bucket.is_none() {
            self.inner.negative_cache.insert(id.as_bytes(), queried_at);
        }
        Ok(bucket)
    }

    /// Looks up the account of an API key that this node doesn't know at the metadata's leader.
    pub async fn find_account(&self, api_key: &str) -> Result<Option<AccountId>, Unavailable> {
        let Ok(key) = uuid::Uuid::try_parse(api_key) else {
            return Ok(None);
        };
        let account = hash_api_key(&key);
        if self.inner.negative_cache.contains(&account.0) {
            return Ok(None);
        }
        let queried_at = Instant::now();
        self.inner.metadata.barrier().await?;
        let owner = self.authenticate(api_key);
        if owner.is_none() {
            self.inner.negative_cache.insert(&account.0, queried_at);
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
        let account = hash_api_key(&key);
        self.inner.catalog.has_account(&account).then_some(account)
    }

    /// Creates a bucket, and an account for it unless the request names one.
    pub async fn create_bucket(
        &self,
        request: CreateBucket,
    ) -> Result<CreatedBucket, DirectoryError> {
        let plan = self.choose_plan(&request)?;
        if request.default_ttl.is_some() {
            self.check_level(DEFAULT_TTL_LEVEL)?;
        }
        if let Some(shortage) = self.inner.gate.refuses(true) {
            return Err(DirectoryError::DiskFull(shortage));
        }
        for _ in 0..MAX_NAME_ATTEMPTS {
            let new_key = match request.account {
                Some(_) => None,
                None => Some(generate_api_key()?),
            };
            let account = request
                .account
                .or_else(|| new_key.as_ref().map(hash_api_key));
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
                default_ttl: request.default_ttl.map_or(0, to_nanos),
            };
            match self.propose(Command::CreateBucket(create)).await? {
                Ok(()) => {
                    self.inner.metadata.await_applied_on_peers().await;
                    let new_account_key = new_key.map(|key| key.to_string());
                    let access = request.access;
                    return Ok(CreatedBucket {
                        new_account_key,
                        id,
                        access,
                        plan,
                    });
                }
                Err(CommandRefusal::NameTaken) => {}
                Err(refusal) => return Err(from_refusal(refusal, plan, request.access)),
            }
        }
        Err(DirectoryError::UnknownOutcome)
    }

    /// Returns the requested plan, or the lowest that offers the access mode.
    fn choose_plan(&self, request: &CreateBucket) -> Result<Plan, DirectoryError> {
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

    /// Modifies a bucket of `account`.
    pub async fn modify_bucket(
        &self,
        account: AccountId,
        id: BucketId,
        change: ModifyBucket,
    ) -> Result<(), DirectoryError> {
        self.barrier().await?;
        let bucket = self.owned_bucket(account, &id)?;
        if change.default_ttl.is_some() {
            self.check_level(DEFAULT_TTL_LEVEL)?;
        }
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
            default_ttl: change.default_ttl.map(|ttl| ttl.map_or(0, to_nanos)),
        };
        let plan = new_plan.unwrap_or(bucket.plan);
        let modified = self.propose(Command::ModifyBucket(modify)).await?;
        modified.map_err(|refusal| from_refusal(refusal, plan, bucket.access))?;
        self.inner.metadata.await_applied_on_peers().await;
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
        let states = self.inner.shards.bucket_states(&bucket.id, true).await;
        let states = states.map_err(from_key_error)?;
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
        let larger = HasLarger {
            bucket: bucket.id.as_bytes(),
            key_bytes,
            value_bytes,
        };
        for shard in self.inner.shards.numbers() {
            let has_larger = self.inner.shards.run(shard, &larger).await;
            if has_larger.map_err(from_key_error)? {
                return exceeds(format!(
                    "it holds keys above {key_bytes} or values above {value_bytes} bytes"
                ));
            }
        }
        Ok(())
    }

    /// Returns a bucket if it belongs to `account`.
    pub(super) fn owned_bucket(
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
    pub(super) async fn barrier(&self) -> Result<(), DirectoryError> {
        Ok(self.inner.metadata.barrier().await?)
    }

    /// Proposes a command, and waits for its result within the request timeout.
    pub(super) async fn propose(
        &self,
        kind: Command,
    ) -> Result<Result<(), CommandRefusal>, DirectoryError> {
        self.inner.metadata.propose(kind).await
    }
}

fn hash_api_key(key: &uuid::Uuid) -> AccountId {
    AccountId(Sha256::digest(key.as_bytes()).into())
}

fn generate_api_key() -> Result<uuid::Uuid, DirectoryError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| DirectoryError::Storage(error.into()))?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid())
}

/// Converts the metadata's refusal of a command about a bucket of `plan` and `access`.
pub(super) fn from_refusal(refusal: CommandRefusal, plan: Plan, access: Access) -> DirectoryError {
    match refusal {
        CommandRefusal::UnknownBucket => DirectoryError::UnknownBucket,
        CommandRefusal::UnknownAccount => DirectoryError::UnknownAccount,
        CommandRefusal::AccessNotInPlan => DirectoryError::AccessNotInPlan { plan, access },
        CommandRefusal::TooManyBuckets { limit } => DirectoryError::TooManyBuckets { plan, limit },
        CommandRefusal::TooManyAccounts => DirectoryError::ClusterFull { what: "accounts" },
        CommandRefusal::ClusterFull => DirectoryError::ClusterFull { what: "buckets" },
        CommandRefusal::NameTaken
        | CommandRefusal::AlreadyBootstrapped
        | CommandRefusal::Malformed
        | CommandRefusal::RegionJoining { .. }
        | CommandRefusal::RegionBeingRemoved { .. }
        | CommandRefusal::LastRegion
        | CommandRefusal::NoSuchRegion
        | CommandRefusal::Node(_) => DirectoryError::UnknownOutcome,
    }
}

/// Converts an error that the shards returned while keys were counted.
pub(super) fn from_key_error(error: KeyError) -> DirectoryError {
    match error {
        KeyError::Unavailable(unavailable) => unavailable.into(),
        KeyError::Storage(error) | KeyError::Damaged(error) => DirectoryError::Storage(error),
        KeyError::BucketDeleted => DirectoryError::UnknownBucket,
        KeyError::DiskFull(shortage) => DirectoryError::DiskFull(shortage),
        KeyError::UnknownOutcome
        | KeyError::PreconditionFailed
        | KeyError::NoSuchKey
        | KeyError::TooManyKeys { .. }
        | KeyError::TooManyBytes { .. } => DirectoryError::UnknownOutcome,
    }
}
