//! A running shard: reads, writes and its own housekeeping.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::merge::MergeOutcome;
use super::merger::{MergeError, MergeQueue, Merger};
use super::proposer::{self, BatchSettings, Queue, QueueBudget, WriteError};
use super::state::{Response, Shard, ShardState};
use super::view::{Lookup, Page, View};
use super::write::WriteOutcome;
use crate::budget::Reservation;
use crate::clock::Clock;
use crate::pace::Pace;
use crate::raft::{Group, GroupSettings, NodeId, Proposal, ProposeError, Status};
use crate::store::keys::GroupId;
use crate::store::{Engine, Gate, StoreError};
use crate::types::{ListQuery, ReadResult};

/// How often a shard looks for what has expired.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How long the answer to a command that is no write is waited for.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that one entry expires at most.
const EXPIRE_LIMIT: u32 = 1000;

/// How shards are run.
#[derive(Clone)]
pub struct ShardSettings {
    /// How their groups are run.
    pub group: GroupSettings,
    /// What goes into their entries.
    pub batch: BatchSettings,
    /// Bytes of records changed lately that are remembered.
    pub record_cache: usize,
    /// Bytes of writes that may wait, over all shards.
    pub budget: QueueBudget,
    /// Bytes of other regions' changes that may wait, over all shards.
    pub merge_budget: QueueBudget,
    /// Turns of other regions' changes that may wait for users' writes, over all shards.
    pub merge_pace: Pace,
    /// Reads that may wait for the disk, over all shards.
    pub disk_reads: Arc<Semaphore>,
    /// Whose pool of threads waits for the disk.
    pub disk: Handle,
    /// The time.
    pub clock: Clock,
    /// Whether this node's clock is right enough to serve.
    pub clock_ok: Arc<AtomicBool>,
    /// Ends the proposers and the housekeeping.
    pub stop: CancellationToken,
}

impl ShardSettings {
    /// Bounds of entries.
    pub fn batch(queue: usize, writes: usize, bytes: usize, in_flight: usize) -> BatchSettings {
        BatchSettings {
            queue,
            writes,
            bytes,
            in_flight,
        }
    }
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// Too many reads wait for the disk.
    #[error("too many reads are waiting for the disk")]
    Overloaded,
    /// What it asks for is damaged on this node's disk.
    #[error("what it asks for is damaged on this node's disk")]
    Damaged {
        /// Whether other nodes have it, too: one of them will lead the shard.
        elsewhere: bool,
        /// What was met.
        source: StoreError,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A shard that runs on this node.
pub struct ShardHandle {
    group: Arc<Group<Shard>>,
    view: Arc<View>,
    queue: Queue,
    merges: MergeQueue,
    disk_reads: Arc<Semaphore>,
    disk: Handle,
    clock: Clock,
    clock_ok: Arc<AtomicBool>,
    /// Whether this node is to hold a replica, as the metadata says.
    hosted: AtomicBool,
    /// Another node that says that it leads; 0: none.
    elsewhere: AtomicU64,
    gate: Gate,
}

impl ShardHandle {
    /// Opens shard `number` and runs it on the current runtime. `found` is proposed if it is new.
    pub async fn start(
        engine: Arc<Engine>,
        number: u16,
        settings: &ShardSettings,
        found: pb::Found,
    ) -> io::Result<Arc<Self>> {
        let id = GroupId::shard(number);
        let db = engine.state.clone();
        let mut view = None;
        let group = Group::<Shard>::start(engine, id, &settings.group, |rows| {
            let state = ShardState::open(db, rows, settings.record_cache)?;
            view = Some(state.view());
            Ok(state)
        })
        .await?;
        let view = view.ok_or_else(|| io::Error::other("a shard's state was not opened"))?;
        let group = Arc::new(group);
        let (clock, stop) = (settings.clock.clone(), settings.stop.clone());
        let batch = settings.batch.clone();
        let budget = settings.budget.clone();
        let queue = proposer::start(group.clone(), clock.clone(), batch, budget, stop.clone());
        let merger = Merger {
            group: group.clone(),
            clock: clock.clone(),
            pace: settings.merge_pace.clone(),
        };
        let merges = merger.start(settings.merge_budget.clone(), stop.clone());
        let (disk_reads, disk) = (settings.disk_reads.clone(), settings.disk.clone());
        let shard = Arc::new(Self {
            group,
            view,
            queue,
            merges,
            disk_reads,
            disk,
            clock,
            clock_ok: settings.clock_ok.clone(),
            hosted: AtomicBool::new(true),
            elsewhere: AtomicU64::new(0),
            gate: Gate::default(),
        });
        let repair = shard.group.clone().repair_when_damaged();
        tokio::spawn(stop.clone().run_until_cancelled_owned(repair));
        tokio::spawn(stop.run_until_cancelled_owned(housekeeping(shard.clone(), found)));
        Ok(shard)
    }

    /// What the shard takes while disks fill up.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether this node answers for the shard now.
    pub fn serves(&self) -> bool {
        self.leads() && self.view.is_open()
    }

    /// Since when this node leads the shard in its term, if it does.
    pub fn led_since(&self) -> Instant {
        self.group.led_since()
    }

    /// Whether this node leads the shard, which may still have to adopt what other regions have.
    pub fn leads(&self) -> bool {
        self.group.may_read() && self.clock_ok.load(Ordering::Acquire)
    }

    /// Why this node wouldn't answer for the shard though it led it.
    pub fn unfit(&self) -> Option<&'static str> {
        if !self.clock_ok.load(Ordering::Acquire) {
            Some(
                "this node leads it, and its clock is too far from the others' or not yet compared",
            )
        } else if !self.view.is_open() {
            Some("it is still to take over what the other regions have")
        } else if self.group.progress().is_stalled() {
            Some("this node leads it, and its state is damaged on the disk")
        } else {
            None
        }
    }

    /// Queues what another region has sent. The merges of one caller are applied in the order in
    /// which they were queued. If it `yields`, users' writes go first.
    pub fn merge(
        &self,
        merge: pb::Merge,
        yields: bool,
    ) -> Result<oneshot::Receiver<Result<MergeOutcome, MergeError>>, MergeError> {
        if !self.serves() {
            return Err(MergeError::NotLeader);
        }
        self.merges.push(merge, yields)
    }

    /// What a key holds. Completes at once if memory has the answer.
    pub async fn get(&self, bucket: &[u8], key: &[u8]) -> Result<ReadResult, ReadError> {
        if !self.serves() {
            return Err(ReadError::NotLeader);
        }
        match self.met(self.view.get_cached(bucket, key, self.clock.now()))? {
            Lookup::Known(found) => Ok(found),
            Lookup::NotCached => {
                let (bucket, key) = (bucket.to_vec(), key.to_vec());
                let now = self.clock.now();
                self.ask_disk(move |view| view.get(&bucket, &key, now))
                    .await
            }
        }
    }

    /// Notes it if what was read is damaged.
    fn met<T>(&self, read: Result<T, StoreError>) -> Result<T, ReadError> {
        read.map_err(|error| {
            if !error.is_damage() {
                return ReadError::Storage(error);
            }
            // What the database has met is noted there, with whose row it was.
            if !error.is_of_database() {
                let generation = self.view.rows().generation();
                self.group.damage().note(generation, &error);
            }
            ReadError::Damaged {
                elsewhere: self.group.has_other_voters(),
                source: error,
            }
        })
    }

    /// Whether this node has a replica that follows its leader.
    pub fn has_replica(&self) -> bool {
        self.is_hosted() && self.view.is_open() && !self.group.is_in_repair()
    }

    /// Whether that may be read, too: it has all that the leader had when this node started, or got
    /// the replica.
    pub fn has_fresh_replica(&self) -> bool {
        self.has_replica() && (self.group.is_fresh() || self.serves())
    }

    /// Whether this node is to hold a replica, as the metadata says.
    pub fn is_hosted(&self) -> bool {
        self.hosted.load(Ordering::Acquire)
    }

    /// Notes what the metadata and other nodes say: whether this node is to hold a replica, and
    /// who else leads.
    pub fn note(&self, hosted: bool, elsewhere: Option<NodeId>) {
        if hosted && !self.is_hosted() {
            self.group.forget_freshness();
        }
        self.hosted.store(hosted, Ordering::Release);
        self.elsewhere
            .store(elsewhere.unwrap_or(0), Ordering::Release);
    }

    /// Who else leads, as far as this node knows.
    pub fn leader_elsewhere(&self) -> Option<NodeId> {
        let me = self.group.node();
        // A replica that was moved away doesn't hear of new leaders.
        let told = self.is_hosted().then(|| *self.group.leader().borrow());
        match told.flatten() {
            Some(leader) if leader == me => None,
            Some(leader) => Some(leader),
            None => {
                let elsewhere = self.elsewhere.load(Ordering::Acquire);
                (elsewhere != 0 && elsewhere != me).then_some(elsewhere)
            }
        }
    }

    /// What a key holds as this node's replica has it, whoever leads.
    pub async fn get_eventual(&self, bucket: &[u8], key: &[u8]) -> Result<ReadResult, ReadError> {
        let now = self.clock.now();
        match self.met(self.view.get_cached(bucket, key, now))? {
            Lookup::Known(found) => Ok(found),
            Lookup::NotCached => {
                let (bucket, key) = (bucket.to_vec(), key.to_vec());
                self.ask_disk(move |view| view.get(&bucket, &key, now))
                    .await
            }
        }
    }

    /// The time that this node's clock shows.
    pub fn now(&self) -> crate::types::Nanos {
        self.clock.now()
    }

    /// Live keys of a bucket, in order.
    pub async fn page(&self, bucket: &[u8], query: ListQuery) -> Result<Page, ReadError> {
        let (bucket, now) = (bucket.to_vec(), self.clock.now());
        self.read(move |view| view.page(&bucket, &query, now)).await
    }

    /// Counts of a bucket in this shard.
    pub async fn bucket(&self, bucket: &[u8]) -> Result<pb::BucketState, ReadError> {
        if !self.serves() {
            return Err(ReadError::NotLeader);
        }
        if let Some(state) = self.met(self.view.bucket_cached(bucket))? {
            return Ok(state);
        }
        let bucket = bucket.to_vec();
        self.read(move |view| view.bucket(&bucket)).await
    }

    /// Runs a read that may wait for the disk on the pool for that.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        if !self.serves() {
            return Err(ReadError::NotLeader);
        }
        self.ask_disk(read).await
    }

    async fn ask_disk<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = self
            .disk_reads
            .clone()
            .try_acquire_owned()
            .map_err(|_| ReadError::Overloaded)?;
        let view = self.view.clone();
        let read = self.disk.spawn_blocking(move || {
            let _permit = permit;
            read(&view)
        });
        match read.await {
            Ok(result) => self.met(result),
            Err(_) => Err(StoreError::corrupt("state", "a read of it has panicked").into()),
        }
    }

    /// Writes a key and waits for the outcome, at most for `deadline`. The room reserved for it
    /// stays with the write, also when whoever waits for it is gone.
    pub async fn write(
        &self,
        write: pb::Write,
        room: Option<Reservation>,
        deadline: Duration,
    ) -> Result<WriteOutcome, WriteError> {
        if !self.serves() {
            return Err(WriteError::NotLeader);
        }
        let outcome = self.queue.push(write, room)?;
        match tokio::time::timeout(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(WriteError::Unknown),
        }
    }

    /// Proposes a command that is no write, and waits for its answer, though not for ever.
    pub async fn propose(&self, command: Command) -> Proposal<Shard> {
        let kind = Some(command);
        let answer = self.group.propose(pb::ShardCommand { kind });
        let answer = tokio::time::timeout(PROPOSAL_TIMEOUT, answer).await;
        answer.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Removes all that has expired by now, so that counts are exact.
    pub async fn expire(&self) -> Proposal<Shard> {
        let time = self.clock.now();
        while self.view.has_expired(time) {
            let expire = pb::ExpireUpTo {
                time,
                limit: EXPIRE_LIMIT,
            };
            if self.propose(Command::Expire(expire)).await? == (Response::Expired { more: false }) {
                break;
            }
        }
        Ok(Response::Done)
    }

    /// The Raft group.
    pub fn group(&self) -> &Arc<Group<Shard>> {
        &self.group
    }

    /// What readers see.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The group at a glance.
    pub fn status(&self) -> Status {
        self.group.status()
    }
}

/// Founds the shard when it is new, and then expires what is due. Only the leader's proposals
/// come to anything; a refused one is made again at the next look.
async fn housekeeping(shard: Arc<ShardHandle>, found: pb::Found) {
    let mut look = tokio::time::interval(HOUSEKEEPING);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wait = Duration::from_millis(2);
    while !shard.view.is_founded() {
        if shard.group.may_read() {
            // Whether it came through shows in the view.
            let _ = shard.propose(Command::Found(found)).await;
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(HOUSEKEEPING);
    }
    loop {
        look.tick().await;
        if shard.serves() {
            let _ = shard.expire().await;
        }
    }
}
