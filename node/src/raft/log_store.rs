//! A group's Raft log: a part of the node's log, with its newest entries in memory as well.
//!
//! Invariants that openraft relies on:
//! - an entry is readable when `append` returns, and durable when its callback is called;
//! - writes of a group are ordered: the node's log is a sequence;
//! - the log is purged only up to what the state has flushed, which is checked here once more for
//!   every caller.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};
use parking_lot::Mutex;

use super::applied_position::persisted_index;
use super::codec;
use super::types::{Entry, LogId, StateMachine, TypeConfig, Vote};
use crate::store::Engine;
use crate::store::keys::GroupId;

/// Maximum bytes of entries in one replication message; the first entry always fits.
const MAX_READ_BYTES: usize = 256 << 10;

/// Log of one group. Cheap to clone; all clones are the same log.
pub(super) struct LogStore<M: StateMachine> {
    inner: Arc<SharedLog<M>>,
    /// Set for a reader: number of truncations of the log when it was created.
    truncations: Option<u64>,
}

impl<M: StateMachine> Clone for LogStore<M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            truncations: self.truncations,
        }
    }
}

struct SharedLog<M: StateMachine> {
    engine: Arc<Engine>,
    group: GroupId,
    cache: Mutex<EntryCache<M>>,
    /// Recorded with the next append: a restart may begin a little before it, never after.
    committed: Mutex<Option<LogId>>,
    /// Last position that was explicitly made durable as committed, if any.
    durable_commit: Mutex<Option<LogId>>,
    purged: AtomicU64,
    /// Number of times that the end of the log was cut off.
    truncations: AtomicU64,
}

/// Newest entries, of consecutive indexes.
struct EntryCache<M: StateMachine> {
    entries: VecDeque<(Entry<M>, usize)>,
    bytes: usize,
    max_bytes: usize,
}

impl<M: StateMachine> EntryCache<M> {
    fn push(&mut self, entry: Entry<M>, size: usize) {
        let expected = self.entries.back().map(|(last, _)| last.log_id.index + 1);
        if expected.is_some_and(|index| index != entry.log_id.index) {
            self.clear();
        }
        self.bytes += size;
        self.entries.push_back((entry, size));
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, size)) = self.entries.pop_front() {
            self.bytes -= size;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    fn truncate_from(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|(last, _)| last.log_id.index >= index)
        {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes -= size;
            }
        }
    }

    fn purge_to(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Entries of `[from, to)`, if the cache holds all that the log has of them.
    fn range(&self, from: u64, to: u64, max_bytes: usize) -> Option<Vec<Entry<M>>> {
        let first = self.first().filter(|first| *first <= from)?;
        let skip = usize::try_from(from - first).ok()?;
        let mut bytes = 0;
        let entries = self.entries.iter().skip(skip).take_while(|(entry, size)| {
            let fits = entry.log_id.index < to && bytes < max_bytes;
            bytes += size;
            fits
        });
        Some(entries.map(|(entry, _)| entry.clone()).collect())
    }
}

impl<M: StateMachine> LogStore<M> {
    /// Opens the log of `group`, which keeps up to `cache_bytes` of its newest entries in memory.
    pub(super) fn open(
        engine: Arc<Engine>,
        group: GroupId,
        cache_bytes: usize,
    ) -> io::Result<Self> {
        let purged = engine.log.purged(group).map(codec::decode_log_id);
        let purged = purged.transpose()?.map_or(0, |id| id.index);
        let committed = engine.log.committed(group).map(codec::decode_log_id);
        let cache = EntryCache {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes: cache_bytes,
        };
        let inner = SharedLog {
            engine,
            group,
            cache: Mutex::new(cache),
            committed: Mutex::new(None),
            durable_commit: Mutex::new(committed.transpose()?),
            purged: AtomicU64::new(purged),
            truncations: AtomicU64::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
            truncations: None,
        })
    }

    /// Index up to which the log was purged; 0 if it wasn't.
    pub(super) fn purged_index(&self) -> u64 {
        self.inner.purged.load(Ordering::Relaxed)
    }

    /// Reads entries of `[from, to)`, up to about `max_bytes` of them: from memory at once, else on
    /// a thread that may wait for the disk. The calling thread drives other groups' heartbeats.
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry<M>>> {
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.inner.cache.lock().range(from, to, max_bytes) {
            return Ok(entries);
        }
        let log = self.clone();
        let read = move || log.read_from_disk(from, to, max_bytes);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)?
    }

    fn read_from_disk(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry<M>>> {
        let inner = &self.inner;
        let rows = inner.engine.log.entries(inner.group, from, to, max_bytes)?;
        let mut next = rows.first().map(|(index, _)| *index);
        let mut entries = Vec::with_capacity(rows.len());
        for (index, bytes) in rows {
            if next != Some(index) {
                return Err(io::Error::other("read log: entries are missing"));
            }
            next = Some(index + 1);
            entries.push(codec::decode_entry::<M>(bytes)?);
        }
        Ok(entries)
    }

    /// Makes durable that the entries up to `applied` are committed, and with them all others that
    /// are known to be: many entries that are applied one by one cost one sync.
    pub(super) async fn persist_commit(&self, applied: LogId) -> io::Result<()> {
        let inner = &self.inner;
        if *inner.durable_commit.lock() >= Some(applied) {
            return Ok(());
        }
        let known = *inner.committed.lock();
        let committed = known.map_or(applied, |known| known.max(applied));
        let (durable, wait) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // No receiver is left if Raft has stopped meanwhile.
            let _ = durable.send(result);
        });
        let bytes = codec::encode_log_id(&committed);
        inner.engine.log.set_committed(inner.group, &bytes, done)?;
        wait.await.map_err(io::Error::other)??;
        *inner.durable_commit.lock() = Some(committed);
        Ok(())
    }

    /// Index of the first of the newest entries, as many as fit both bounds.
    pub(super) fn first_retained(&self, entries: usize, bytes: u64) -> Option<u64> {
        let inner = &self.inner;
        inner.engine.log.first_within(inner.group, entries, bytes)
    }

    fn last_purged(&self) -> io::Result<Option<LogId>> {
        let purged = self.inner.engine.log.purged(self.inner.group);
        purged.map(codec::decode_log_id).transpose()
    }
}

fn index_bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl<M: StateMachine> RaftLogReader<TypeConfig<M>> for LogStore<M> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<M>>, io::Error> {
        let (from, to) = index_bounds(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<M>>, io::Error> {
        let entries = self.read(start, end, MAX_READ_BYTES).await?;
        // A leader never truncates its log. So the one that this reader replicates for doesn't lead
        // any more, and the entries may be a later leader's: appended to this one's previous entry
        // they would form a log that never existed.
        let truncations = self.inner.truncations.load(Ordering::Acquire);
        if self.truncations.is_some_and(|known| known != truncations) {
            return Ok(Vec::new());
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.inner.engine.log.vote(self.inner.group);
        vote.map(codec::decode_vote).transpose()
    }
}

impl<M: StateMachine> RaftLogStorage<TypeConfig<M>> for LogStore<M> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<M>>, io::Error> {
        let last_purged_log_id = self.last_purged()?;
        let last = self.inner.engine.log.last(self.inner.group)?;
        let last_log_id = match last {
            Some((_, bytes)) => Some(codec::entry_log_id(bytes)?),
            None => last_purged_log_id,
        };
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        Self {
            inner: self.inner.clone(),
            truncations: Some(self.inner.truncations.load(Ordering::Acquire)),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (durable, wait) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // No receiver is left if Raft has stopped meanwhile.
            let _ = durable.send(result);
        });
        let bytes = codec::encode_vote(vote);
        self.inner
            .engine
            .log
            .set_vote(self.inner.group, &bytes, done)?;
        wait.await.map_err(io::Error::other)?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        *self.inner.committed.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if let Some(committed) = *self.inner.committed.lock() {
            return Ok(Some(committed));
        }
        let committed = self.inner.engine.log.committed(self.inner.group);
        committed.map(codec::decode_log_id).transpose()
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig<M>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry<M>> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry<M>> = entries.into_iter().collect();
        let committed = *self.inner.committed.lock();
        let committed = committed.as_ref().map(codec::encode_log_id);
        // Into the cache first: the callback may be called before this returns, and the entries be
        // read then.
        {
            let mut cache = self.inner.cache.lock();
            for entry in &entries {
                cache.push(entry.clone(), codec::entry_len::<M>(entry));
            }
        }
        let rows = entries.iter().map(|entry| {
            let write = |bytes: &mut Vec<u8>| codec::write_entry::<M>(entry, bytes);
            (entry.index(), write)
        });
        let done = Box::new(move |result| callback.io_completed(result));
        let (log, group) = (&self.inner.engine.log, self.inner.group);
        log.append(group, rows, committed.as_deref(), done)?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        // Counted first: a reader of the entries that replace the old end has to see it.
        self.inner.truncations.fetch_add(1, Ordering::AcqRel);
        self.inner
            .engine
            .log
            .truncate_from(self.inner.group, from)?;
        self.inner.cache.lock().truncate_from(from);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let inner = &self.inner;
        if persisted_index(&inner.engine.state, inner.group)? < Some(log_id.index) {
            inner.engine.state.flush()?;
        }
        let bytes = codec::encode_log_id(&log_id);
        inner.engine.log.purge(inner.group, log_id.index, &bytes)?;
        inner.cache.lock().purge_to(log_id.index);
        inner.purged.store(log_id.index, Ordering::Relaxed);
        Ok(())
    }
}
