//! A running shard: reads, writes and housekeeping.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloudkv_common::byte_budget::ByteBudget;
use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::merge_queue::{MergeError, MergeProposer, MergeQueue};
use super::page::Page;
use super::proposer::{self, BatchSettings, WriteError, WriteQueue};
use super::response::{MergeOutcome, ShardResponse, WriteOutcome};
use super::state::{ShardState, StateMemory};
use super::state_machine::Shard;
use super::view::{Lookup, ShardView};
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::quota::Reservation;
use crate::raft::{Group, GroupSettings, GroupStatus, NodeId, ProposalResult, ProposeError};
use crate::store::keys::GroupId;
use crate::store::{Engine, StoreError, WriteGate};
use crate::types::{AtomicNodeId, ListQuery, ReadResult};

/// Interval at which a shard expires keys, and maximum backoff of its bootstrap.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time to wait for the result of a command that is no write.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of keys that one entry expires.
const MAX_EXPIRED_PER_ENTRY: u32 = 1000;

/// Settings of the shards of a node.
#[derive(Clone)]
pub struct ShardSettings {
    /// Settings of their Raft groups.
    pub group: GroupSettings,
    /// Bounds of write batches.
    pub batch: BatchSettings,
    /// Size of the cache of recently changed records of each shard, in bytes.
    pub record_cache: usize,
    /// Memory for the recent changes of each shard, in bytes; 0: none are recorded.
    pub recent_changes_bytes: usize,
    /// Memory that pins may add to it in each shard, in bytes.
    pub pinned_changes_bytes: usize,
    /// Bound on the bytes of waiting writes, over all shards.
    pub write_budget: ByteBudget,
    /// Bound on the bytes of other regions' waiting changes, over all shards.
    pub merge_budget: ByteBudget,
    /// Scheduler of other regions' changes that are background work, over all shards.
    pub merge_scheduler: BackgroundScheduler,
    /// Bound on the reads that wait for the disk, over all shards.
    pub disk_reads: Arc<Semaphore>,
    /// Runtime whose blocking pool reads from the disk.
    pub disk_runtime: Handle,
    /// Clock of the node.
    pub clock: Clock,
    /// True while this node's clock is accurate enough to serve.
    pub is_clock_ok: Arc<AtomicBool>,
    /// Stops the proposers and the housekeeping.
    pub stop: CancellationToken,
}

impl ShardSettings {
    /// Creates the bounds of write batches.
    pub fn batch(queue: usize, writes: usize, bytes: usize, in_flight: usize) -> BatchSettings {
        BatchSettings {
            max_queued: queue,
            max_writes: writes,
            max_bytes: bytes,
            max_in_flight: in_flight,
        }
    }

    fn state_memory(&self) -> StateMemory {
        StateMemory {
            record_cache: self.record_cache,
            recent_changes: self.recent_changes_bytes,
            pinned_changes: self.pinned_changes_bytes,
        }
    }
}

/// Error of a read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// Too many reads wait for the disk.
    #[error("too many reads are waiting for the disk")]
    Overloaded,
    /// The requested data is damaged on this node's disk.
    #[error("the requested data is damaged on this node's disk")]
    Damaged {
        /// True if other voters have it, too: one of them will lead the shard.
        elsewhere: bool,
        /// Underlying error.
        source: StoreError,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Handle of a shard that runs on this node.
pub struct ShardHandle {
    group: Arc<Group<Shard>>,
    view: Arc<ShardView>,
    write_queue: WriteQueue,
    merge_queue: MergeQueue,
    disk_reads: Arc<Semaphore>,
    disk_runtime: Handle,
    clock: Clock,
    is_clock_ok: Arc<AtomicBool>,
    /// True if the placement assigns a replica to this node.
    is_hosted: AtomicBool,
    /// Another node that claims leadership.
    remote_leader: AtomicNodeId,
    gate: WriteGate,
}

impl ShardHandle {
    /// Opens shard `number` and starts it on the current runtime. Proposes `bootstrap` if the shard
    /// is new.
    pub async fn start(
        engine: Arc<Engine>,
        number: u16,
        settings: &ShardSettings,
        bootstrap: pb::BootstrapShard,
    ) -> io::Result<Arc<Self>> {
        let id = GroupId::shard(number);
        let db = engine.state.clone();
        let mut view = None;
        let group = Group::<Shard>::start(engine, id, &settings.group, |rows| {
            let state = ShardState::open(db, rows, settings.state_memory())?;
            view = Some(state.view());
            Ok(state)
        })
        .await?;
        let view = view.ok_or_else(|| io::Error::other("a shard's state was not opened"))?;
        let group = Arc::new(group);
        let (clock, stop) = (settings.clock.clone(), settings.stop.clone());
        let batch = settings.batch.clone();
        let budget = settings.write_budget.clone();
        let queue = proposer::start(group.clone(), clock.clone(), batch, budget, stop.clone());
        let merger = MergeProposer {
            group: group.clone(),
            clock: clock.clone(),
            scheduler: settings.merge_scheduler.clone(),
        };
        let merges = merger.start(settings.merge_budget.clone(), stop.clone());
        let (disk_reads, disk) = (settings.disk_reads.clone(), settings.disk_runtime.clone());
        let shard = Arc::new(Self {
            group,
            view,
            write_queue: queue,
            merge_queue: merges,
            disk_reads,
            disk_runtime: disk,
            clock,
            is_clock_ok: settings.is_clock_ok.clone(),
            is_hosted: AtomicBool::new(true),
            remote_leader: AtomicNodeId::default(),
            gate: WriteGate::default(),
        });
        let repair = shard.group.clone().run_repair();
        tokio::spawn(stop.clone().run_until_cancelled_owned(repair));
        tokio::spawn(stop.run_until_cancelled_owned(housekeeping(shard.clone(), bootstrap)));
        Ok(shard)
    }

    /// Returns the gate that refuses writes while disks fill up.
    pub fn gate(&self) -> &WriteGate {
        &self.gate
    }

    /// Returns whether this node serves the shard now.
    pub fn is_serving(&self) -> bool {
        self.is_leading() && self.view.is_open()
    }

    /// Returns since when this node has led the shard in its term, if it leads it.
    pub fn led_since(&self) -> Instant {
        self.group.led_since()
    }

    /// Returns whether this node leads the shard, even if it is still being seeded.
    pub fn is_leading(&self) -> bool {
        self.group.may_read() && self.is_clock_ok.load(Ordering::Acquire)
    }

    /// Returns the reason why this node wouldn't serve the shard even as its leader, if there is
    /// one.
    pub fn unserving_reason(&self) -> Option<&'static str> {
        if !self.is_clock_ok.load(Ordering::Acquire) {
            Some(
                "this node leads it, and its clock is too far from the others' or not yet compared",
            )
        } else if !self.view.is_open() {
            Some("it is still being seeded from the other regions")
        } else if self.group.progress().is_stalled() {
            Some("this node leads it, and its state is damaged on the disk")
        } else {
            None
        }
    }

    /// Enqueues changes that another region has sent. The merges of one caller are applied in the
    /// order in which they were enqueued. If a merge `is_background`, users' writes have priority.
    pub fn merge(
        &self,
        merge: pb::Merge,
        is_background: bool,
    ) -> Result<oneshot::Receiver<Result<MergeOutcome, MergeError>>, MergeError> {
        if !self.is_serving() {
            return Err(MergeError::NotLeader);
        }
        self.merge_queue.push(merge, is_background)
    }

    /// Reads a key. Completes immediately if it is in memory.
    pub async fn get(&self, bucket: &[u8], key: &[u8]) -> Result<ReadResult, ReadError> {
        if !self.is_serving() {
            return Err(ReadError::NotLeader);
        }
        match self.report_damage(self.view.get_cached(bucket, key, self.clock.now()))? {
            Lookup::Cached(result) => Ok(result),
            Lookup::NotCached => {
                let (bucket, key) = (bucket.to_vec(), key.to_vec());
                let now = self.clock.now();
                self.read_disk(move |view| view.get(&bucket, &key, now))
                    .await
            }
        }
    }

    /// Converts the error of a read, and reports damage.
    fn report_damage<T>(&self, read: Result<T, StoreError>) -> Result<T, ReadError> {
        read.map_err(|error| {
            if !error.is_damage() {
                return ReadError::Storage(error);
            }
            // The database reports damage that it has met itself, with the row's group.
            if !error.is_from_database() {
                let generation = self.view.rows().generation();
                self.group.damage().record(generation, &error);
            }
            ReadError::Damaged {
                elsewhere: self.group.has_other_voters(),
                source: error,
            }
        })
    }

    /// Returns whether this node has a replica that follows its leader.
    pub fn has_replica(&self) -> bool {
        self.is_hosted() && self.view.is_open() && !self.group.is_in_repair()
    }

    /// Returns whether this node's replica may be read: it has all that the leader had when this
    /// node started, or when it got the replica.
    pub fn has_fresh_replica(&self) -> bool {
        self.has_replica() && (self.group.is_fresh() || self.is_serving())
    }

    /// Returns whether the placement assigns a replica to this node.
    pub fn is_hosted(&self) -> bool {
        self.is_hosted.load(Ordering::Acquire)
    }

    /// Updates whether this node holds a replica, by the placement, and which other node leads, by
    /// the other nodes' reports.
    pub fn set_placement(&self, hosted: bool, elsewhere: Option<NodeId>) {
        if hosted && !self.is_hosted() {
            self.group.reset_freshness();
        }
        self.is_hosted.store(hosted, Ordering::Release);
        self.remote_leader.store(elsewhere, Ordering::Release);
    }

    /// Returns the other node that leads, as far as this node knows.
    pub fn remote_leader(&self) -> Option<NodeId> {
        let me = self.group.node();
        // A replica that was moved away receives no news of leaders.
        let known = self.is_hosted().then(|| *self.group.leader().borrow());
        match known.flatten() {
            Some(leader) if leader == me => None,
            Some(leader) => Some(leader),
            None => {
                let elsewhere = self.remote_leader.load(Ordering::Acquire);
                elsewhere.filter(|elsewhere| *elsewhere != me)
            }
        }
    }

    /// Reads a key from this node's replica, whoever leads.
    pub async fn get_eventual(&self, bucket: &[u8], key: &[u8]) -> Result<ReadResult, ReadError> {
        let now = self.clock.now();
        match self.report_damage(self.view.get_cached(bucket, key, now))? {
            Lookup::Cached(result) => Ok(result),
            Lookup::NotCached => {
                let (bucket, key) = (bucket.to_vec(), key.to_vec());
                self.read_disk(move |view| view.get(&bucket, &key, now))
                    .await
            }
        }
    }

    /// Returns the time of this node's clock.
    pub fn now(&self) -> crate::types::Nanos {
        self.clock.now()
    }

    /// Reads a page of a bucket's list.
    pub async fn page(&self, bucket: &[u8], query: ListQuery) -> Result<Page, ReadError> {
        let (bucket, now) = (bucket.to_vec(), self.clock.now());
        self.read(move |view| view.page(&bucket, &query, now)).await
    }

    /// Returns counts of a bucket in this shard.
    pub async fn bucket(&self, bucket: &[u8]) -> Result<pb::BucketState, ReadError> {
        if !self.is_serving() {
            return Err(ReadError::NotLeader);
        }
        if let Some(state) = self.report_damage(self.view.bucket_cached(bucket))? {
            return Ok(state);
        }
        let bucket = bucket.to_vec();
        self.read(move |view| view.bucket(&bucket)).await
    }

    /// Runs a read that may wait for the disk on the blocking pool.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ShardView) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        if !self.is_serving() {
            return Err(ReadError::NotLeader);
        }
        self.read_disk(read).await
    }

    async fn read_disk<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ShardView) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = self
            .disk_reads
            .clone()
            .try_acquire_owned()
            .map_err(|_| ReadError::Overloaded)?;
        let view = self.view.clone();
        let read = self.disk_runtime.spawn_blocking(move || {
            let _permit = permit;
            read(&view)
        });
        match read.await {
            Ok(result) => self.report_damage(result),
            Err(_) => Err(StoreError::corrupt("state", "a read of it panicked").into()),
        }
    }

    /// Runs a scan on the blocking pool. It mostly waits for its reader, so it takes no permit for
    /// reads that wait for the disk: its caller bounds the number of scans.
    pub fn spawn_scan(&self, scan: impl FnOnce(&ShardView) + Send + 'static) {
        let view = self.view.clone();
        self.disk_runtime.spawn_blocking(move || scan(&view));
    }

    /// Writes a key and waits for the outcome, at most for `timeout`. The quota reserved for it
    /// stays with the write, also when its caller stops waiting.
    pub async fn write(
        &self,
        write: pb::Write,
        reservation: Option<Reservation>,
        timeout: Duration,
    ) -> Result<WriteOutcome, WriteError> {
        if !self.is_serving() {
            return Err(WriteError::NotLeader);
        }
        let outcome = self.write_queue.push(write, reservation)?;
        match tokio::time::timeout(timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(WriteError::Unknown),
        }
    }

    /// Raises the shard's feature level to `level` at least. The caller knows that all nodes support
    /// it. If the outcome is unknown, nothing that needs the level was proposed: try again.
    pub async fn raise_level(&self, level: u32) -> Result<(), WriteError> {
        if self.view.level() >= level {
            return Ok(());
        }
        let raised = self.propose(Command::SetLevel(pb::SetLevel { level }));
        raised.await.map_err(|_| WriteError::NotLeader).map(|_| ())
    }

    /// Proposes a command that is no write, and waits for its result, within a timeout.
    pub async fn propose(&self, command: Command) -> ProposalResult<Shard> {
        let kind = Some(command);
        let answer = self.group.propose(pb::ShardCommand { kind });
        let answer = tokio::time::timeout(PROPOSAL_TIMEOUT, answer).await;
        answer.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Removes all keys that have expired by now, so that counts are exact.
    pub async fn expire(&self) -> ProposalResult<Shard> {
        let time = self.clock.now();
        while self.view.has_expired_keys(time) {
            let expire = pb::ExpireUpTo {
                time,
                limit: MAX_EXPIRED_PER_ENTRY,
            };
            if self.propose(Command::Expire(expire)).await?
                == (ShardResponse::Expired { has_more: false })
            {
                break;
            }
        }
        Ok(ShardResponse::Done)
    }

    /// Returns the Raft group.
    pub fn group(&self) -> &Arc<Group<Shard>> {
        &self.group
    }

    /// Returns the view that readers use.
    pub fn view(&self) -> &Arc<ShardView> {
        &self.view
    }

    /// Returns the status of the Raft group.
    pub fn status(&self) -> GroupStatus {
        self.group.status()
    }
}

/// Bootstraps the shard if it is new, and then expires keys. Only the leader's proposals succeed; a
/// refused one is repeated at the next interval.
async fn housekeeping(shard: Arc<ShardHandle>, bootstrap: pb::BootstrapShard) {
    let mut interval = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut delay = Duration::from_millis(2);
    while !shard.view.is_bootstrapped() {
        if shard.group.may_read() {
            // The result shows in the view.
            let _ = shard.propose(Command::Bootstrap(bootstrap)).await;
        }
        tokio::time::sleep(delay).await;
        delay = (2 * delay).min(HOUSEKEEPING_INTERVAL);
    }
    loop {
        interval.tick().await;
        if shard.is_serving() {
            let _ = shard.expire().await;
        }
    }
}
