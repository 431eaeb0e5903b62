//! One fsync for all Raft groups of a node.
//!
//! The log's thread takes all records that wait, writes them, syncs once, and completes them; while
//! it does, the next ones gather. So however many groups write, the disk sees one sync after the
//! other, each as large as it can be.
//!
//! After a failed sync the kernel may have dropped the dirty pages: it is never tried again. Every
//! completion from then on gets the error, and Raft ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Shared;
use super::frame::Kind;
use super::segment::{Pen, SegmentFile};
use super::tail::Chunk;
use crate::store::keys::GroupId;
use crate::store::synced_mark::SyncedMark;

/// Called once, on the log's thread, when the records are durable, or never will be.
pub type Completion = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// What the log's thread has done since the start.
#[derive(Debug, Default)]
pub struct SyncStats {
    /// Number of syncs.
    pub syncs: AtomicU64,
    /// Appends that they made durable.
    pub appends: AtomicU64,
    /// Time spent in writing and syncing, in microseconds.
    pub micros: AtomicU64,
}

/// What there is to do.
struct Work {
    chunks: Arc<[Chunk]>,
    completions: Vec<Completion>,
}

/// The thread that writes and syncs the log.
pub(super) struct Writer {
    mark: SyncedMark,
    pen: Pen,
    file: Option<Arc<SegmentFile>>,
    preparing: Option<JoinHandle<()>>,
    /// The segment while which a file for the next one was made, or tried to.
    prepared_in: u64,
}

impl Writer {
    pub(super) fn new(mark: SyncedMark) -> Self {
        Self {
            mark,
            pen: Pen::new(),
            file: None,
            preparing: None,
            prepared_in: 0,
        }
    }

    /// Goes on in a file, at `offset`.
    pub(super) fn go_on(&mut self, file: Arc<SegmentFile>, offset: u64) -> io::Result<()> {
        self.pen.seek(&file, offset)?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes and syncs until the log is closed.
    pub(super) fn run(mut self, shared: &Arc<Shared>) {
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
                self.prepare(shared);
            }
        }
        if let Some(preparing) = self.preparing.take() {
            // A panic there has told itself already.
            let _ = preparing.join();
        }
    }

    fn write(&mut self, shared: &Shared, chunks: &[Chunk]) -> io::Result<()> {
        for chunk in chunks {
            if let Some(size) = chunk.begins {
                // What comes next must not be on the disk without what came before.
                self.sync()?;
                self.file = Some(shared.next_file(chunk.at.segment(), size)?);
                self.pen.restart();
            }
            let file = self.file.as_ref();
            let file = file.ok_or_else(|| io::Error::other("the log has no segment"))?;
            self.pen.write(file, &chunk.bytes)?;
        }
        self.sync()?;
        match chunks.last() {
            Some(last) => self.mark.set(last.end().number()),
            None => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync())
    }

    /// Makes the next segment's file on a thread of its own, while there is time for that. Once for
    /// each segment: if it can't be made, the next one will tell.
    fn prepare(&mut self, shared: &Arc<Shared>) {
        if self
            .preparing
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let Some((slot, segment)) = shared.wants_spare(self.prepared_in) else {
            return;
        };
        self.prepared_in = segment;
        let shared = shared.clone();
        let make = move || match shared.create(slot, shared.settings.segment_bytes) {
            Ok(file) => shared.state.lock().spares.push(file),
            // It is tried again when it is needed, and then it counts.
            Err(error) => tracing::warn!(%error, "prepare a segment of the log"),
        };
        let thread = std::thread::Builder::new().name("log-prepare".into());
        self.preparing = thread.spawn(make).ok();
    }
}

impl Shared {
    /// Waits for work; `None` when the log is closed and all is written.
    fn take_work(&self) -> Option<Work> {
        let mut state = self.state.lock();
        while state.tail.waiting().is_empty() && state.completions.is_empty() {
            if state.closing {
                return None;
            }
            state.idle = true;
            self.work.wait(&mut state);
        }
        state.idle = false;
        state.writing = state.tail.take().into();
        Some(Work {
            chunks: state.writing.clone(),
            completions: std::mem::take(&mut state.completions),
        })
    }

    /// Notes that chunks are durable, and frees segments; or that they never will be.
    fn finish_work(&self, chunks: &[Chunk], failed: Option<&Arc<str>>) {
        let mut state = self.state.lock();
        if let Some(failed) = failed {
            // What couldn't be written stays readable.
            state.failed = Some(failed.clone());
            return;
        }
        state.writing = Arc::new([]);
        if let Some(last) = chunks.last() {
            state.durable = last.end();
        }
        let surplus = state.release(self.settings.spares);
        drop(state);
        for file in surplus {
            if let Err(error) = file.remove() {
                tracing::warn!(%error, "remove a segment of the log");
            }
        }
    }

    /// A file for a new segment of at least `size` bytes.
    fn next_file(&self, segment: u64, size: u64) -> io::Result<Arc<SegmentFile>> {
        let (spare, slot) = {
            let mut state = self.state.lock();
            // One that is still being read is left alone.
            let free =
                |file: &Arc<SegmentFile>| file.size() >= size && Arc::strong_count(file) == 1;
            let found = state.spares.iter().position(free);
            let spare = found.map(|at| state.spares.swap_remove(at));
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

    /// The number of a file that should be made, since the segment is filling up, and that segment;
    /// `None` if one was made in it already.
    fn wants_spare(&self, prepared_in: u64) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let at = state.tail.at();
        let filling = at.offset() > self.settings.segment_bytes / 2;
        let wanted = filling && state.spares.is_empty() && self.settings.spares > 0;
        if !wanted || at.segment() == prepared_in {
            return None;
        }
        let slot = state.next_slot;
        state.next_slot += 1;
        Some((slot, at.segment()))
    }
}

impl super::State {
    /// Frees segments that nobody needs: first they are said to be no part of the log any more,
    /// and when that is durable, they may be used again. Returns the files that are too many.
    fn release(&mut self, spares: usize) -> Vec<Arc<SegmentFile>> {
        if self.releasing.is_some_and(|at| at <= self.durable) {
            self.releasing = None;
            let rest = self.segments.split_off(&self.oldest);
            let free = std::mem::replace(&mut self.segments, rest);
            self.spares.extend(free.into_values());
        }
        if self.releasing.is_none() && self.removed <= self.durable {
            let oldest = self.oldest_needed();
            if oldest > self.oldest {
                let body = |out: &mut Vec<u8>| out.extend_from_slice(&oldest.to_be_bytes());
                if self.push(Kind::Release, GroupId::META, body).is_ok() {
                    self.oldest = oldest;
                    self.releasing = Some(self.tail.at());
                }
            }
        }
        let kept = self.spares.len().min(spares);
        self.spares.split_off(kept)
    }

    /// The oldest segment that holds something needed, or is being written.
    fn oldest_needed(&self) -> u64 {
        let newest = self.durable.segment();
        (self.oldest..newest)
            .find(|segment| self.index.needed(*segment).entries > 0)
            .unwrap_or(newest.max(self.oldest))
    }
}
