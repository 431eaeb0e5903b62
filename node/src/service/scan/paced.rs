//! Scan of this node's replica of a shard, in one consistent view, at the pace of background work.
//!
//! A thread of the blocking pool scans. It goes on to the next chunk only when it is told to, by
//! whoever has a permit of the background scheduler: so the rest after a chunk is in proportion to
//! the time that the chunk took, and users' requests have the disk and the processors meanwhile.
//! While nobody asks for the next chunk, the thread waits, and keeps the view.

use std::io;

use tokio::sync::mpsc;

use crate::background::BackgroundScheduler;
use crate::shard::{ShardHandle, ShardView};

/// Scan that yields to users' requests. Its thread ends when this is dropped.
pub(crate) struct PacedScan<C> {
    scheduler: BackgroundScheduler,
    /// Lets the thread go on to its next chunk.
    turns: mpsc::Sender<()>,
    /// Chunks in their order; `None` is the end of the scan.
    chunks: mpsc::Receiver<io::Result<Option<C>>>,
}

/// The thread's side of a scan.
struct ScanThread<C> {
    turns: mpsc::Receiver<()>,
    chunks: mpsc::Sender<io::Result<Option<C>>>,
}

/// Takes the chunks of a scan; an error ends it.
pub(crate) type ChunkSink<'a, C> = &'a mut dyn FnMut(C) -> io::Result<()>;

impl<C: Send + 'static> PacedScan<C> {
    /// Prepares a scan of a replica by `scan`, which takes the view and gives its chunks to a sink:
    /// it begins when the first chunk is asked for.
    pub(crate) fn start(
        shard: &ShardHandle,
        scheduler: BackgroundScheduler,
        scan: impl FnOnce(&ShardView, ChunkSink<'_, C>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let (paced, thread) = Self::new(scheduler);
        shard.spawn_scan(move |view| thread.run(|sink| scan(view, sink)));
        paced
    }

    fn new(scheduler: BackgroundScheduler) -> (Self, ScanThread<C>) {
        let (turns, next_turn) = mpsc::channel(1);
        let (chunks, received) = mpsc::channel(1);
        let scan = Self {
            scheduler,
            turns,
            chunks: received,
        };
        let thread = ScanThread {
            turns: next_turn,
            chunks,
        };
        (scan, thread)
    }

    /// Reads the next chunk; `None` at the end of the scan. Not to be called after that.
    ///
    /// Cancel safe: a chunk that was read meanwhile is the next one.
    pub(crate) async fn next(&mut self) -> io::Result<Option<C>> {
        let permit = self.scheduler.acquire().await;
        let (turns, chunks) = (&self.turns, &mut self.chunks);
        let chunk = permit.run(async move {
            // Fails only if the thread has ended: what it has sent last is still there.
            let _ = turns.send(()).await;
            chunks.recv().await
        });
        let ended = || Err(io::Error::other("scan shard: its thread ended early"));
        chunk.await.unwrap_or_else(ended)
    }
}

impl<C> ScanThread<C> {
    /// Runs a scan, and sends its chunks and its end: blocks.
    fn run(self, scan: impl FnOnce(ChunkSink<'_, C>) -> io::Result<()>) {
        let Self { mut turns, chunks } = self;
        let mut await_turn = || turns.blocking_recv().ok_or_else(reader_gone);
        if await_turn().is_err() {
            return;
        }
        let send = |chunk| chunks.blocking_send(chunk).map_err(|_| reader_gone());
        let scanned = scan(&mut |chunk| {
            send(Ok(Some(chunk)))?;
            await_turn()
        });
        // Fails only if nobody reads the scan any more.
        let _ = send(scanned.map(|()| None));
    }
}

fn reader_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the scan's reader is gone")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::task::{JoinHandle, spawn_blocking};

    use super::*;

    /// Starts a scan of so many chunks, which counts those that it has begun to read.
    fn start(count: u64, end: io::Result<()>) -> (PacedScan<u64>, Arc<AtomicU64>, JoinHandle<()>) {
        let (scan, thread) = PacedScan::new(BackgroundScheduler::new(100));
        let begun = Arc::new(AtomicU64::new(0));
        let counter = begun.clone();
        let thread = spawn_blocking(move || {
            thread.run(|sink| {
                for index in 0..count {
                    counter.fetch_add(1, Ordering::Relaxed);
                    sink(index)?;
                }
                end
            });
        });
        (scan, begun, thread)
    }

    #[tokio::test]
    async fn chunks_are_read_when_they_are_asked_for() {
        let (mut scan, begun, thread) = start(3, Ok(()));
        for index in 0..3 {
            assert_eq!(scan.next().await.unwrap(), Some(index));
            assert_eq!(begun.load(Ordering::Relaxed), index + 1);
        }
        assert_eq!(scan.next().await.unwrap(), None);
        thread.await.unwrap();
    }

    #[tokio::test]
    async fn a_scan_that_fails_has_no_end() {
        let (mut scan, _, _) = start(1, Err(io::Error::other("damaged")));
        assert_eq!(scan.next().await.unwrap(), Some(0));
        assert_eq!(scan.next().await.unwrap_err().to_string(), "damaged");
        let (mut scan, thread) = PacedScan::<u64>::new(BackgroundScheduler::new(100));
        drop(thread);
        let lost = scan.next().await.unwrap_err().to_string();
        assert!(lost.contains("ended early"), "{lost}");
    }

    #[tokio::test]
    async fn the_thread_ends_with_the_scan() {
        for chunks in 0..3 {
            let (mut scan, begun, thread) = start(u64::MAX, Ok(()));
            for _ in 0..chunks {
                scan.next().await.unwrap();
            }
            drop(scan);
            thread.await.unwrap();
            assert_eq!(begun.load(Ordering::Relaxed), chunks);
        }
    }
}
