//! One direction of a connection through a proxy.
//!
//! A reader and a writer with a queue between them, so that a delay doesn't lower the throughput:
//!
//! ```text
//! read ──► (deliver at, bytes) ──► queue ──► wait until then, and until not cut ──► write
//! ```
//!
//! A cut holds the bytes back and keeps the connection open. Its end releases them, as if TCP
//! retransmitted them. The end of the stream, or its reset, waits in the queue as bytes do: a cut
//! hides it, too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::bottleneck::Bottleneck;
use super::link_control::LinkControl;
use super::link_shape::{Direction, FlowShape, LinkStats};
use crate::rng::Rng;

/// Maximum number of chunks in the queue.
const MAX_QUEUED_CHUNKS: usize = 512;

/// Maximum size of a chunk, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Duration of a stall after a lost packet, in milliseconds.
const STALL_MS: std::ops::Range<u64> = 50..400;

/// The connection must be reset.
#[derive(Debug)]
pub(super) struct Reset;

enum Chunk {
    Bytes(Bytes),
    End,
    Reset,
}

/// Forwards one direction of a connection.
pub(super) struct Pump {
    pub direction: Direction,
    pub changes: watch::Receiver<LinkControl>,
    pub stats: Arc<LinkStats>,
    /// Bandwidth limits that all links of either node share in this direction.
    pub bottlenecks: [Arc<Bottleneck>; 2],
    pub rng: Rng,
}

impl Pump {
    /// Forwards bytes to the end of the stream.
    pub(super) async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Reset> {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
        let writer = Writer {
            direction: self.direction,
            changes: self.changes.clone(),
            stats: self.stats.clone(),
        };
        let read = async {
            self.read(from, sender).await;
            // The writer still has to write what was read.
            std::future::pending().await
        };
        tokio::select! {
            written = writer.run(to, receiver) => written,
            () = read => Ok(()),
        }
    }

    async fn read(mut self, mut from: ReadHalf<'_>, queue: mpsc::Sender<(Instant, Chunk)>) {
        let mut deliver_at = Instant::now();
        loop {
            let mut bytes = BytesMut::with_capacity(CHUNK_BYTES);
            let mut piece = match from.read_buf(&mut bytes).await {
                Ok(0) => Chunk::End,
                Ok(_) => Chunk::Bytes(bytes.freeze()),
                Err(_) => Chunk::Reset,
            };
            let flow = *self.changes.borrow().shape.flow(self.direction);
            if self.rng.chance_permille(flow.resets_permille) {
                piece = Chunk::Reset;
            }
            // Never before earlier chunks: the order of a stream must stay.
            deliver_at = deliver_at.max(Instant::now() + self.delay(&flow));
            if let Chunk::Bytes(bytes) = &piece {
                for bottleneck in &self.bottlenecks {
                    deliver_at = deliver_at.max(bottleneck.enqueue(bytes.len()).await);
                }
            }
            let is_last = !matches!(piece, Chunk::Bytes(_));
            if queue.send((deliver_at, piece)).await.is_err() || is_last {
                return;
            }
        }
    }

    fn delay(&mut self, flow: &FlowShape) -> Duration {
        let jitter = u64::try_from(flow.jitter.as_millis()).unwrap_or(u64::MAX);
        let mut delay = flow.delay + self.rng.millis(0..jitter.saturating_add(1));
        if !delay.is_zero() {
            LinkStats::increment(&self.stats.delayed);
        }
        if self.rng.chance_permille(flow.stalls_permille) {
            LinkStats::increment(&self.stats.stalled);
            delay += self.rng.millis(STALL_MS);
        }
        delay
    }
}

struct Writer {
    direction: Direction,
    changes: watch::Receiver<LinkControl>,
    stats: Arc<LinkStats>,
}

impl Writer {
    async fn run(
        mut self,
        mut to: WriteHalf<'_>,
        mut queue: mpsc::Receiver<(Instant, Chunk)>,
    ) -> Result<(), Reset> {
        while let Some((deliver_at, piece)) = queue.recv().await {
            if deliver_at > Instant::now() {
                sleep_until(deliver_at).await;
            }
            self.wait_while_cut().await?;
            if let Chunk::Bytes(bytes) = &piece {
                self.wait_for_capacity(bytes.len()).await;
            }
            let written = match piece {
                Chunk::Bytes(bytes) => to.write_all(&bytes).await,
                Chunk::End => to.shutdown().await,
                Chunk::Reset => return Err(Reset),
            };
            // Whoever closed tells the other side by its own stream, which may be cut.
            if written.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until the link has carried so many bytes, if its rate is limited.
    async fn wait_for_capacity(&self, bytes: usize) {
        let passed = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.stats.passed_bytes.fetch_add(passed, Ordering::Relaxed);
        let rate = self
            .changes
            .borrow()
            .shape
            .flow(self.direction)
            .bytes_per_sec;
        if rate > 0 {
            sleep_until(self.stats.reserve(self.direction, bytes, rate)).await;
        }
    }

    async fn wait_while_cut(&mut self) -> Result<(), Reset> {
        let direction = self.direction;
        if self.changes.borrow().shape.flow(direction).is_cut {
            LinkStats::increment(&self.stats.held_back);
        }
        let passes = |control: &LinkControl| !control.shape.flow(direction).is_cut;
        // An error means that the network was dropped.
        self.changes
            .wait_for(passes)
            .await
            .map(|_| ())
            .map_err(|_| Reset)
    }
}
