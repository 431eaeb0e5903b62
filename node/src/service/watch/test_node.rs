//! Node with real shards that it leads, and one bucket; for tests only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::byte_budget::ByteBudget;
use cloudkv_proto::v1::{self as pb, write::Op};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::context::BucketLookup;
use super::settings::{WatchRequest, WatchSettings};
use super::token::ResumeToken;
use super::watches::Watches;
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::meta::{Bucket, BucketLimits};
use crate::raft::{GroupSettings, NodeId, SnapshotSettings};
use crate::rpc::{Dialer, Peers, PeersSettings, RpcClientSettings, RpcRuntimes};
use crate::service::list_keys::ListKeys;
use crate::service::shards::Shards;
use crate::shard::{KEY_METADATA_LEVEL, ShardHandle, ShardSettings};
use crate::store::{Engine, EngineSettings};
use crate::types::{Access, AccountId, BucketId, KeyFilter, ListEntry, ListQuery, Plan, Version};

/// Number of shards.
pub(super) const SHARDS: u16 = 3;
/// Region and incarnation of the shards.
pub(super) const HISTORY: (u32, u64) = (1, 7);
/// Timeout of what must happen soon.
const TIMEOUT: Duration = Duration::from_secs(30);
const NODE: NodeId = NodeId::new(1);

/// A node, and what is watched there.
pub(super) struct TestNode {
    pub shards: Shards,
    pub watches: Watches,
    pub bucket: Arc<Bucket>,
    /// The bucket as the catalog has it.
    current: Arc<Mutex<Option<Arc<Bucket>>>>,
    stop: CancellationToken,
    _dir: TempDir,
}

/// Returns a bucket without limits that matter here.
pub(super) fn test_bucket(id: BucketId, access: Access) -> Bucket {
    Bucket {
        id,
        owner: AccountId([0; 32]),
        access,
        plan: Plan::Free,
        limits: Arc::new(BucketLimits {
            keys: 10_000,
            key_bytes: 1000,
            value_bytes: 1 << 20,
            bytes: None,
        }),
        comment: None,
        default_ttl: None,
        created_at: 0,
        is_dropping: false,
        dropped_in: Vec::new(),
        usage: Arc::default(),
    }
}

impl TestNode {
    /// Starts a node whose shards remember so many bytes of changes each.
    pub(super) async fn start(recent_changes_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 4 << 20,
            log_segment_bytes: 1 << 20,
            compaction_rate: 0,
        };
        let engine = Arc::new(Engine::open(dir.path(), &settings).unwrap());
        let (peers, stop) = (peers(), CancellationToken::new());
        let settings = shard_settings(&peers, &stop, recent_changes_bytes);
        let mut handles = Vec::new();
        for number in 0..SHARDS {
            let (region, incarnation) = HISTORY;
            let bootstrap = pb::BootstrapShard {
                region,
                incarnation,
                level: KEY_METADATA_LEVEL,
                ..Default::default()
            };
            let shard = ShardHandle::start(engine.clone(), number, &settings, bootstrap);
            handles.push(shard.await.unwrap());
        }
        let shards = Shards::new(handles, peers, 1 << 20, TIMEOUT);
        let id = BucketId::parse(b"aABCDEFGHIJKLM").unwrap();
        let bucket = Arc::new(test_bucket(id, Access::Public));
        // Waits until all shards have a leader.
        assert_eq!(shards.count_keys(&id, false).await.unwrap(), 0);
        let current = Arc::new(Mutex::new(Some(bucket.clone())));
        let lookup: BucketLookup = Arc::new({
            let current = current.clone();
            move |_: &BucketId| current.lock().clone()
        });
        let settings = WatchSettings {
            max_watchers: 10,
            max_bucket_watchers: 10,
            max_address_watchers: 10,
            bucket_buffer_bytes: 8 << 20,
            buffer_bytes: 8 << 20,
        };
        let runtime = Handle::current();
        let watches = Watches::with_buckets(shards.clone(), lookup, HISTORY, runtime, settings);
        Self {
            shards,
            watches,
            bucket,
            current,
            stop,
            _dir: dir,
        }
    }

    pub(super) async fn shut_down(self) {
        self.watches.drain();
        self.stop.cancel();
        for shard in self.shards.iter() {
            shard.group().stop().await.unwrap();
        }
    }

    /// Returns the request for a watch of all keys.
    pub(super) fn request(&self, since: Option<&str>) -> WatchRequest {
        let since = since.map(|token| ResumeToken::parse(token, &self.bucket.id).unwrap());
        WatchRequest {
            bucket: self.bucket.clone(),
            filter: KeyFilter::Prefix(Bytes::new()),
            since,
            initial: false,
            with_values: false,
            client: None,
        }
    }

    /// Changes the bucket in the catalog; `None` deletes it.
    pub(super) fn set_access(&self, access: Option<Access>) {
        let id = self.bucket.id;
        *self.current.lock() = access.map(|access| Arc::new(test_bucket(id, access)));
    }

    pub(super) async fn put(&self, key: &str, value: &str) {
        let put = pb::Put {
            value: Bytes::copy_from_slice(value.as_bytes()),
            may_create: true,
            ..Default::default()
        };
        self.write(key, Op::Put(put)).await;
    }

    /// Puts all of these keys at once.
    pub(super) async fn put_all(&self, keys: &[String], value: &str) {
        join_all(keys.iter().map(|key| self.put(key, value))).await;
    }

    pub(super) async fn delete(&self, key: &str) {
        self.write(key, Op::Delete(pb::Delete {})).await;
    }

    pub(super) async fn write(&self, key: &str, op: Op) {
        let id = &self.bucket.id;
        let shard = self.shards.shard_of(id, key.as_bytes());
        let shard = self.shards.local(shard).unwrap();
        let write = pb::Write {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
            key: Bytes::copy_from_slice(key.as_bytes()),
            condition: None,
            op: Some(op),
        };
        shard.write(write, None, TIMEOUT).await.unwrap();
    }

    /// Returns the live keys with their versions.
    pub(super) async fn content(&self) -> BTreeMap<Bytes, Version> {
        let mut keys = BTreeMap::new();
        let query = ListQuery {
            limit: 100_000,
            ..ListQuery::default()
        };
        for shard in self.shards.numbers() {
            let bucket = self.bucket.id.as_bytes();
            let query = &query;
            let list = ListKeys { bucket, query };
            let page = self.shards.run(shard, &list).await.unwrap();
            let entries = page.entries;
            keys.extend(entries.into_iter().filter_map(|entry| match entry {
                ListEntry::Key(info) => Some((info.key, info.version)),
                ListEntry::Prefix(_) => None,
            }));
        }
        keys
    }
}

fn peers() -> Arc<Peers> {
    Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me: NODE,
        dialer: Dialer::default(),
        client: RpcClientSettings {
            max_calls: 1000,
            max_queue_bytes: 16 << 20,
            max_message_bytes: 16 << 20,
        },
        runtimes: RpcRuntimes::all_on(&Handle::current()),
    })
}

fn shard_settings(
    peers: &Arc<Peers>,
    stop: &CancellationToken,
    recent_changes_bytes: usize,
) -> ShardSettings {
    ShardSettings {
        group: GroupSettings {
            node: NODE,
            rpc_address: "127.0.0.1:1".to_owned(),
            peers: peers.clone(),
            bootstraps: true,
            append_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            log_cache_bytes: 1 << 20,
            log_retention_limits: (1000, 1 << 20),
            snapshots: SnapshotSettings::new(100),
            disk_space: Arc::default(),
        },
        batch: ShardSettings::batch(10_000, 100, 1 << 20, 2),
        record_cache: 1 << 20,
        recent_changes_bytes,
        pinned_changes_bytes: 0,
        write_budget: ByteBudget::new(16 << 20),
        merge_budget: ByteBudget::new(16 << 20),
        merge_scheduler: BackgroundScheduler::new(100),
        disk_reads: Arc::new(Semaphore::new(10)),
        disk_runtime: Handle::current(),
        clock: Clock::new(),
        is_clock_ok: Arc::new(AtomicBool::new(true)),
        stop: stop.clone(),
    }
}
