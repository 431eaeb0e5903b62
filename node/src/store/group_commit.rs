//! One fsync for all Raft groups of a node.
//!
//! Invariant: a completion is called with `Ok` only after an fsync that began after its rows were
//! written to the log database. The thread takes all completions that are queued, syncs once, and
//! completes them; while it does, the next ones queue up. So however many groups write, the disk
//! sees one fsync after the other, each as large as it can be.
//!
//! After a failed fsync the kernel may have dropped the dirty pages: it is never tried again.
//! Every completion from then on gets the error, and Raft ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rocksdb::DB;

use super::synced_mark::SyncedMark;

/// Called once, on the group commit's thread, when the rows are durable, or never will be.
pub type Completion = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// What the group commit has done since the start.
#[derive(Debug, Default)]
pub struct SyncStats {
    /// Number of fsyncs.
    pub syncs: AtomicU64,
    /// Appends that they made durable.
    pub appends: AtomicU64,
    /// Time spent in them, in microseconds.
    pub micros: AtomicU64,
}

/// The thread that syncs the log.
pub(super) struct GroupCommit {
    queue: Option<Sender<Completion>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<SyncStats>,
}

impl GroupCommit {
    /// Starts the thread.
    pub(super) fn start(db: Arc<DB>, mark: SyncedMark) -> io::Result<Self> {
        let (queue, completions) = channel();
        let stats = Arc::new(SyncStats::default());
        let thread = {
            let stats = stats.clone();
            std::thread::Builder::new()
                .name("log-sync".into())
                .spawn(move || run(&db, &mark, &completions, &stats))?
        };
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            stats,
        })
    }

    /// Queues a completion for the next fsync. The rows must be written already.
    ///
    /// The queue has no bound of its own: each group has at most a few appends in flight.
    pub(super) fn enqueue(&self, completion: Completion) {
        let refused = match &self.queue {
            Some(queue) => queue.send(completion).map_err(|refused| refused.0).err(),
            None => Some(completion),
        };
        if let Some(completion) = refused {
            completion(Err(io::Error::other("the log's sync thread has ended")));
        }
    }

    pub(super) fn stats(&self) -> &Arc<SyncStats> {
        &self.stats
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has told itself already.
            let _ = thread.join();
        }
    }
}

/// Syncs all that is written by now, and notes how far that is.
fn sync(db: &DB, mark: &SyncedMark) -> io::Result<()> {
    let written = db.latest_sequence_number();
    db.flush_wal(true).map_err(io::Error::other)?;
    mark.set(written)
}

fn run(db: &DB, mark: &SyncedMark, completions: &Receiver<Completion>, stats: &SyncStats) {
    let mut batch = Vec::new();
    let mut failed: Option<String> = None;
    while let Ok(first) = completions.recv() {
        batch.push(first);
        batch.extend(completions.try_iter());
        if failed.is_none() {
            let begin = Instant::now();
            failed = sync(db, mark).err().map(|error| error.to_string());
            let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            stats.micros.fetch_add(micros, Ordering::Relaxed);
            stats.syncs.fetch_add(1, Ordering::Relaxed);
            stats
                .appends
                .fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        for completion in batch.drain(..) {
            completion(match &failed {
                None => Ok(()),
                Some(error) => Err(io::Error::other(error.clone())),
            });
        }
    }
}
