//! The log as its users see it: appends, removals and reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::entry_source::EntrySource;
use super::frame::FrameKind;
use super::index::GroupLog;
use super::shared_log::{Completion, SharedLog, SyncStats};
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// Log of a node.
pub struct SegmentLog {
    pub(super) shared: Arc<SharedLog>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl SegmentLog {
    /// Appends entries of consecutive indexes, each written by its function, which may be called
    /// twice; existing entries from the first index on are truncated. `committed` is stored with
    /// them, if given. They are written when this returns and durable when `done` is called.
    pub fn append<E: Fn(&mut Vec<u8>)>(
        &self,
        group: GroupId,
        entries: impl IntoIterator<Item = (u64, E)>,
        committed: Option<&[u8]>,
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut bytes = 0;
        let mut state = self.shared.state.lock();
        for (number, entry) in entries {
            let place = state.push_entry(FrameKind::Entry, group, number, entry)?;
            bytes += u64::from(place.len);
            state.index.append(group, number, place);
        }
        if let Some(committed) = committed
            && state
                .index
                .group(group)
                .and_then(|it| it.committed.as_deref())
                != Some(committed)
        {
            state.push(FrameKind::Committed, group, |out| {
                out.extend_from_slice(committed)
            })?;
            state.index.set_committed(group, committed);
        }
        state.completions.push(done);
        self.shared.wake(state);
        self.shared
            .appended_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the group's vote. Durable when `done` is called.
    pub fn set_vote(
        &self,
        group: GroupId,
        vote: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Vote, group, |out| out.extend_from_slice(vote))?;
        state.index.set_vote(group, vote);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Writes the group's committed position. Durable when `done` is called.
    pub fn set_committed(
        &self,
        group: GroupId,
        committed: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Committed, group, |out| {
            out.extend_from_slice(committed)
        })?;
        state.index.set_committed(group, committed);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Removes the entries from `number` on. Durable with the next sync.
    pub fn truncate_from(&self, group: GroupId, number: u64) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Truncate, group, |out| {
            out.extend_from_slice(&number.to_be_bytes());
        })?;
        state.index.truncate(group, number);
        state.last_removal = state.tail.position();
        Ok(())
    }

    /// Removes the entries up to index `upto`, whose position is `position`. Triggers a sync, and
    /// doesn't wait for it.
    pub fn purge(&self, group: GroupId, upto: u64, position: &[u8]) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Purge, group, |out| {
            out.extend_from_slice(&upto.to_be_bytes());
            out.extend_from_slice(position);
        })?;
        state.index.purge(group, upto, position);
        state.last_removal = state.tail.position();
        self.shared.wake(state);
        Ok(())
    }

    fn read_group<T>(
        &self,
        group: GroupId,
        read: impl FnOnce(&GroupLog) -> Option<T>,
    ) -> Option<T> {
        self.shared.state.lock().index.group(group).and_then(read)
    }

    /// Returns the group's last vote.
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.vote.clone())
    }

    /// Returns the group's last stored committed position.
    pub fn committed(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.committed.clone())
    }

    /// Returns the position up to which the group's log was purged.
    pub fn purged(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.purged.as_ref().map(|(_, at)| at.clone()))
    }

    /// Reads entries from `from` to `to` (exclusive), about `max_bytes` at most, but at least one
    /// if there is any: may block.
    pub fn entries(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut sources = Vec::new();
        {
            let state = self.shared.state.lock();
            let mut bytes = 0;
            let log = state.index.group(group);
            let entries = log
                .into_iter()
                .flat_map(|log| log.entries.range(from..to.max(from)));
            for (number, place) in entries {
                if bytes >= max_bytes {
                    break;
                }
                bytes += usize::try_from(place.len).unwrap_or(usize::MAX);
                sources.push((*number, state.entry_source(group, *number, *place)?));
            }
        }
        let read = |(number, source): (u64, EntrySource)| Ok((number, source.read()?));
        sources.into_iter().map(read).collect()
    }

    /// Reads the last entry: may block.
    pub fn last(&self, group: GroupId) -> Result<Option<(u64, Bytes)>, StoreError> {
        let last = {
            let state = self.shared.state.lock();
            let log = state.index.group(group);
            match log.and_then(|log| log.entries.last_key_value()) {
                Some((number, place)) => {
                    Some((*number, state.entry_source(group, *number, *place)?))
                }
                None => None,
            }
        };
        let read = |(number, source): (u64, EntrySource)| Ok((number, source.read()?));
        last.map(read).transpose()
    }

    /// Returns the first index of the newest entries of a group that are within both bounds, at
    /// least one if there is any.
    pub fn first_within(&self, group: GroupId, entries: usize, bytes: u64) -> Option<u64> {
        let within = |log: &GroupLog| {
            let mut left = bytes;
            let newest = log.entries.iter().rev().take(entries);
            let kept = newest.take_while(|(_, place)| {
                let fits = left.checked_sub(u64::from(place.len));
                left = fits.unwrap_or(0);
                fits.is_some()
            });
            let first = kept.last().or_else(|| log.entries.last_key_value());
            first.map(|(number, _)| *number)
        };
        self.read_group(group, within)
    }

    /// Returns whether nothing was ever written to the log.
    pub fn is_empty(&self) -> bool {
        self.shared.state.lock().index.groups().next().is_none()
    }

    /// Returns the bytes of appended entries, including those recovered at the start.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.appended_bytes.load(Ordering::Relaxed)
    }

    /// Returns the size of the log's segments, without spare files, in bytes.
    pub fn used_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        state.segments.values().map(|file| file.size()).sum()
    }

    /// Returns the number of entries of all groups: the location of each is in memory.
    pub fn entry_count(&self) -> u64 {
        let state = self.shared.state.lock();
        let groups = state.index.groups();
        groups.map(|(_, log)| log.entries.len() as u64).sum()
    }

    /// Returns the size of all files of the log, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        let files = state.segments.values().chain(&state.spares);
        files.map(|file| file.size()).sum()
    }

    /// Returns counters of the log's thread.
    pub fn sync_stats(&self) -> &Arc<SyncStats> {
        &self.shared.stats
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.is_closing = true;
            state.is_idle = false;
        }
        self.shared.work_available.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported already.
            let _ = thread.join();
        }
    }
}
