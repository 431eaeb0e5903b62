//! Group commit: one fsync for all Raft groups of a node.
//!
//! The log's thread takes all waiting records, writes them, syncs once, and completes them; the
//! next ones accumulate meanwhile. So however many groups write, the disk does one sync after the
//! other, each covering as many records as possible.
//!
//! After a failed sync the kernel may have dropped the dirty pages, so a sync is never retried.
//! Every completion from then on gets the error, and Raft ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use super::frame::FrameKind;
use super::segment::{SegmentFile, SegmentWriter};
use super::shared_log::{Completion, LogState, SharedLog};
use super::tail::Chunk;
use crate::store::keys::GroupId;
use crate::store::synced_mark::SyncedMark;

/// Chunks to write, and completions to call after the sync.
struct LogWork {
    chunks: Arc<[Chunk]>,
    completions: Vec<Completion>,
}

/// State of the thread that writes and syncs the log.
pub(super) struct LogWriter {
    synced_mark: SyncedMark,
    segment_writer: SegmentWriter,
    file: Option<Arc<SegmentFile>>,
    spare_thread: Option<JoinHandle<()>>,
    /// Segment during which creating the file for the next one was last tried.
    spare_tried_in: u64,
}

impl LogWriter {
    pub(super) fn new(synced_mark: SyncedMark) -> Self {
        Self {
            synced_mark,
            segment_writer: SegmentWriter::new(),
            file: None,
            spare_thread: None,
            spare_tried_in: 0,
        }
    }

    /// Continues in a file, at `offset`.
    pub(super) fn resume(&mut self, file: Arc<SegmentFile>, offset: u64) -> io::Result<()> {
        self.segment_writer.seek(&file, offset)?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes and syncs until the log is closed.
    pub(super) fn run(mut self, shared: &Arc<SharedLog>) {
        let mut failed: Option<Arc<str>> = None;
        while let Some(work) = shared.take_work() {
            if failed.is_none() {
                let begin = Instant::now();
                let done = self.write(shared, &work.chunks);
                let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                let stats = &shared.stats;
                stats.micros.fetch_add(micros, Ordering::Relaxed);
                stats.syncs.fetch_add(1, Ordering::Relaxed);
                let appends = work.completions.len() as u64;
                stats.appends.fetch_add(appends, Ordering::Relaxed);
                failed = done.err().map(|error| error.to_string().into());
            }
            shared.finish_work(&work.chunks, failed.as_ref());
            for completion in work.completions {
                completion(match &failed {
                    None => Ok(()),
                    Some(error) => Err(io::Error::other(error.to_string())),
                });
            }
            if failed.is_none() {
                self.create_spare(shared);
            }
        }
        if let Some(preparing) = self.spare_thread.take() {
            // A panic of the thread was reported already.
            let _ = preparing.join();
        }
    }

    fn write(&mut self, shared: &SharedLog, chunks: &[Chunk]) -> io::Result<()> {
        for chunk in chunks {
            if let Some(size) = chunk.new_segment_bytes {
                // The next segment must not be on the disk without the end of this one.
                self.sync()?;
                self.file = Some(shared.next_file(chunk.at.segment(), size)?);
                self.segment_writer.restart();
            }
            let file = self.file.as_ref();
            let file = file.ok_or_else(|| io::Error::other("the log has no segment"))?;
            self.segment_writer.write(file, &chunk.bytes)?;
        }
        self.sync()?;
        match chunks.last() {
            Some(last) => self.synced_mark.set(last.end().number()),
            None => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync())
    }

    /// Creates the next segment's file ahead of time, on a thread of its own. Tried once for each
    /// segment: if it fails, the file is created when it is needed.
    fn create_spare(&mut self, shared: &Arc<SharedLog>) {
        if self
            .spare_thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let Some((slot, segment)) = shared.next_spare(self.spare_tried_in) else {
            return;
        };
        self.spare_tried_in = segment;
        let shared = shared.clone();
        let make = move || match shared.create(slot, shared.settings.segment_bytes) {
            Ok(file) => shared.state.lock().spares.push(file),
            // Creating it is retried when the file is needed, and an error is fatal then.
            Err(error) => tracing::warn!(
                %error,
                "preparing a log segment failed, retrying when it is needed"
            ),
        };
        let thread = std::thread::Builder::new().name("log-prepare".into());
        self.spare_thread = thread.spawn(make).ok();
    }
}

impl SharedLog {
    /// Waits for work; returns `None` when the log is closed and everything is written.
    fn take_work(&self) -> Option<LogWork> {
        let mut state = self.state.lock();
        while state.tail.pending().is_empty() && state.completions.is_empty() {
            if state.is_closing {
                return None;
            }
            state.is_idle = true;
            self.work_available.wait(&mut state);
        }
        state.is_idle = false;
        state.writing = state.tail.take_pending().into();
        Some(LogWork {
            chunks: state.writing.clone(),
            completions: std::mem::take(&mut state.completions),
        })
    }

    /// Records that chunks are durable, and frees segments; or that writing has failed.
    fn finish_work(&self, chunks: &[Chunk], failed: Option<&Arc<str>>) {
        let mut state = self.state.lock();
        if let Some(failed) = failed {
            // Chunks that couldn't be written stay readable.
            state.failure = Some(failed.clone());
            return;
        }
        state.writing = Arc::new([]);
        if let Some(last) = chunks.last() {
            state.durable = last.end();
        }
        let surplus = state.release_segments(self.settings.max_spares);
        drop(state);
        for file in surplus {
            if let Err(error) = file.remove() {
                tracing::warn!(%error, "removing a log segment failed");
            }
        }
    }

    /// Returns a file for a new segment of at least `size` bytes.
    fn next_file(&self, segment: u64, size: u64) -> io::Result<Arc<SegmentFile>> {
        let (spare, slot) = {
            let mut state = self.state.lock();
            // A file that is still being read can't be reused.
            let free =
                |file: &Arc<SegmentFile>| file.size() >= size && Arc::strong_count(file) == 1;
            let reusable = state.spares.iter().position(free);
            let spare = reusable.map(|at| state.spares.swap_remove(at));
            let slot = state.next_slot;
            state.next_slot += u64::from(spare.is_none());
            (spare, slot)
        };
        let file = match spare {
            Some(file) => file,
            None => self.create(slot, size)?,
        };
        self.state.lock().segments.insert(segment, file.clone());
        Ok(file)
    }

    fn create(&self, slot: u64, size: u64) -> io::Result<Arc<SegmentFile>> {
        SegmentFile::create(&self.dir, slot, size).map(Arc::new)
    }

    /// Returns the number of a spare file to create, since the current segment is filling up, and
    /// that segment's number; `None` if creating one was tried during this segment already.
    fn next_spare(&self, prepared_in: u64) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let at = state.tail.position();
        let filling = at.offset() > self.settings.segment_bytes / 2;
        let wanted = filling && state.spares.is_empty() && self.settings.max_spares > 0;
        if !wanted || at.segment() == prepared_in {
            return None;
        }
        let slot = state.next_slot;
        state.next_slot += 1;
        Some((slot, at.segment()))
    }
}

impl LogState {
    /// Frees unneeded segments: first a record removes them from the log, and when it is durable,
    /// their files may be reused. Returns surplus files.
    fn release_segments(&mut self, spares: usize) -> Vec<Arc<SegmentFile>> {
        if self.pending_release.is_some_and(|at| at <= self.durable) {
            self.pending_release = None;
            let rest = self.segments.split_off(&self.oldest_segment);
            let free = std::mem::replace(&mut self.segments, rest);
            self.spares.extend(free.into_values());
        }
        if self.pending_release.is_none() && self.last_removal <= self.durable {
            let oldest = self.oldest_needed();
            if oldest > self.oldest_segment {
                let body = |out: &mut Vec<u8>| out.extend_from_slice(&oldest.to_be_bytes());
                if self.push(FrameKind::Release, GroupId::META, body).is_ok() {
                    self.oldest_segment = oldest;
                    self.pending_release = Some(self.tail.position());
                }
            }
        }
        let kept = self.spares.len().min(spares);
        self.spares.split_off(kept)
    }

    /// Returns the oldest segment that holds needed entries, or is being written.
    fn oldest_needed(&self) -> u64 {
        let newest = self.durable.segment();
        (self.oldest_segment..newest)
            .find(|segment| self.index.usage(*segment).entries > 0)
            .unwrap_or(newest.max(self.oldest_segment))
    }
}
