//! Sends a snapshot to a member, over as many connections as it takes.
//!
//! One view of the state is read, once, by a thread that stays a few chunks ahead. Its chunks are
//! numbered, and kept until the receiver has acknowledged them, so that
//!
//! - no more than [`MAX_UNACKED_CHUNKS`] chunks are in flight: other traffic on the network doesn't
//!   queue behind many, and an acknowledgement proves that a chunk has arrived, not that a buffer
//!   holds it;
//! - a transfer is alive while chunks are acknowledged, however slow the network is;
//! - a new connection resumes after the last chunk that the receiver has.
//!
//! The view is released with the transfer: when it is done, when its receiver doesn't have what it
//! has acknowledged any more, when no chunk was acknowledged for [`RESUME_TIMEOUT`], or when the
//! sender doesn't lead any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_ack::Kind as Ack;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::codec;
use super::snapshot::SnapshotData;
use super::snapshot_transfers::{
    RESUME_TIMEOUT, SnapshotTransfer, SnapshotTransfers, TransferDirection,
};
use super::types::Vote;
use crate::rpc::Peers;
use crate::types::NodeId;

/// Maximum number of chunks in flight.
const MAX_UNACKED_CHUNKS: usize = 4;
/// Timeout of a connection, and of the first acknowledgement on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without an acknowledged chunk after which a connection is replaced by a new one.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for the receiver to flush a snapshot and to install it.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Backoff before a transfer is resumed.
const RESUME_BACKOFF: Duration = Duration::from_millis(500);

/// A snapshot that is being sent.
struct SnapshotSender<'a> {
    peers: &'a Peers,
    node: NodeId,
    transfer: &'a SnapshotTransfer,
    /// Header, chunks and last frame, as they are read.
    frames: mpsc::Receiver<pb::SnapshotFrame>,
    /// Chunks read, and not acknowledged.
    unacknowledged: VecDeque<pb::SnapshotChunk>,
    /// Number of acknowledged chunks, and their bytes.
    acknowledged: u64,
    acknowledged_bytes: u64,
    end_frame: Option<pb::SnapshotEnd>,
    last_progress: Instant,
}

impl<'a> SnapshotSender<'a> {
    fn new(
        peers: &'a Peers,
        node: NodeId,
        transfer: &'a SnapshotTransfer,
        frames: mpsc::Receiver<pb::SnapshotFrame>,
    ) -> Self {
        Self {
            peers,
            node,
            transfer,
            frames,
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            acknowledged_bytes: 0,
            end_frame: None,
            last_progress: Instant::now(),
        }
    }

    /// Sends the snapshot; returns the vote of its receiver.
    async fn run(mut self) -> Result<Vote, Status> {
        let Some(Frame::Header(head)) = self.frames.recv().await.and_then(|frame| frame.kind)
        else {
            return Err(Status::internal("read snapshot: the state can't be read"));
        };
        loop {
            let status = match self.send_over_connection(&head).await {
                Ok(vote) => return Ok(vote),
                Err(status) if status.code() == Code::Unimplemented && self.acknowledged == 0 => {
                    return self.send_without_acks(head).await;
                }
                Err(status) => status,
            };
            let is_started = self.acknowledged > 0;
            if !is_started
                || !is_resumable(&status)
                || self.last_progress.elapsed() > RESUME_TIMEOUT
            {
                return Err(status);
            }
            tracing::info!(
                group = %self.transfer.group(),
                node = self.transfer.node_name(),
                chunks = self.acknowledged,
                error = status.message(),
                "snapshot transfer interrupted, resuming"
            );
            tokio::time::sleep(RESUME_BACKOFF).await;
        }
    }

    /// Resumes over a new connection, to the end of the snapshot or of the connection.
    async fn send_over_connection(&mut self, head: &pb::SnapshotHeader) -> Result<Vote, Status> {
        let (frames, stream) = mpsc::channel(1);
        let head = pb::SnapshotHeader {
            acknowledged: self.acknowledged,
            ..head.clone()
        };
        send_frame(&frames, Frame::Header(head)).await?;
        let opened = async {
            let mut acks = self
                .peers
                .send_snapshot(self.node, ReceiverStream::new(stream))
                .await?;
            let first = next_ack(&mut acks).await?;
            Ok::<_, Status>((acks, first))
        };
        let timed_out = |_| Status::deadline_exceeded("no acknowledgement of a snapshot's header");
        let (mut acks, first) = tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(timed_out)??;
        match first {
            Ack::Installed(reply) => return reply_vote(reply),
            Ack::Chunks(chunks) => self.record_ack(chunks)?,
        }
        self.transfer
            .start(self.acknowledged, self.acknowledged_bytes);
        self.send_chunks(&frames, &mut acks).await
    }

    async fn send_chunks(
        &mut self,
        frames: &mpsc::Sender<pb::SnapshotFrame>,
        acks: &mut Streaming<pb::SnapshotAck>,
    ) -> Result<Vote, Status> {
        // Number of unacknowledged chunks that were sent over this connection.
        let mut sent = 0;
        let mut is_end_sent = false;
        let mut last_progress = Instant::now();
        loop {
            let all_sent = sent == self.unacknowledged.len();
            let has_more = !all_sent || (self.end_frame.is_some() && !is_end_sent);
            let can_read = all_sent && self.end_frame.is_none() && sent < MAX_UNACKED_CHUNKS;
            let limit = if is_end_sent {
                INSTALL_TIMEOUT
            } else {
                ACK_TIMEOUT
            };
            tokio::select! {
                ack = next_ack(acks) => match ack? {
                    Ack::Installed(reply) => return reply_vote(reply),
                    Ack::Chunks(chunks) => {
                        let old_len = self.unacknowledged.len();
                        self.record_ack(chunks)?;
                        sent = sent.saturating_sub(old_len - self.unacknowledged.len());
                        last_progress = Instant::now();
                    }
                },
                frame = self.frames.recv(), if can_read => self.queue_frame(frame)?,
                permit = frames.reserve(), if has_more => {
                    let permit = permit.map_err(|_| connection_lost())?;
                    let kind = match (self.unacknowledged.get(sent), &self.end_frame) {
                        (Some(chunk), _) => {
                            sent += 1;
                            Frame::Chunk(chunk.clone())
                        }
                        (None, Some(last)) => {
                            is_end_sent = true;
                            last_progress = Instant::now();
                            Frame::Last(*last)
                        }
                        (None, None) => continue,
                    };
                    permit.send(pb::SnapshotFrame { kind: Some(kind) });
                }
                () = tokio::time::sleep_until((last_progress + limit).into()) => {
                    return Err(Status::deadline_exceeded("no chunk was acknowledged in time"));
                }
            }
        }
    }

    /// Queues a frame that was read.
    fn queue_frame(&mut self, frame: Option<pb::SnapshotFrame>) -> Result<(), Status> {
        match frame.and_then(|frame| frame.kind) {
            Some(Frame::Chunk(chunk)) => self.unacknowledged.push_back(chunk),
            Some(Frame::Last(last)) => self.end_frame = Some(last),
            // The reading thread has logged the error.
            Some(Frame::Header(_) | Frame::End(_)) | None => {
                return Err(Status::internal("read snapshot: the state can't be read"));
            }
        }
        Ok(())
    }

    /// Records that the receiver has `chunks` chunks.
    fn record_ack(&mut self, chunks: u64) -> Result<(), Status> {
        let next = self.acknowledged + self.unacknowledged.len() as u64;
        if chunks < self.acknowledged || chunks > next {
            return Err(Status::failed_precondition(
                "the receiver acknowledged chunks that were not sent",
            ));
        }
        while self.acknowledged < chunks {
            if let Some(chunk) = self.unacknowledged.pop_front() {
                self.acknowledged_bytes += super::snapshot::chunk_bytes(&chunk);
            }
            self.acknowledged += 1;
            self.last_progress = Instant::now();
        }
        self.transfer
            .advance(self.acknowledged, self.acknowledged_bytes);
        Ok(())
    }

    /// Sends the whole snapshot to a node of a version without acknowledgements.
    async fn send_without_acks(self, head: pb::SnapshotHeader) -> Result<Vote, Status> {
        let head = pb::SnapshotFrame {
            kind: Some(Frame::Header(head)),
        };
        let frames = legacy_frames(self.frames);
        let frames = futures_util::StreamExt::chain(stream::iter([head]), frames);
        self.transfer.start(0, 0);
        let reply = self.peers.install_snapshot(self.node, frames).await?;
        reply_vote(reply)
    }
}

/// Sends a snapshot of the state after entry `index`, or a later one, to member `target`; returns
/// the vote of its receiver. `transfers` shows its progress.
pub(super) async fn send_snapshot(
    peers: &Peers,
    transfers: &Arc<SnapshotTransfers>,
    target: NodeId,
    data: SnapshotData,
    vote: &Vote,
    index: u64,
) -> Result<Vote, Status> {
    let busy = || Status::resource_exhausted("other snapshots are being sent");
    let _permit = transfers.try_acquire_send().ok_or_else(busy)?;
    let transfer = transfers.begin(TransferDirection::Sent, target, index);
    let scheduler = transfers.send_scheduler().clone();
    let frames = data.frames(transfers.group(), vote, scheduler);
    let sender = SnapshotSender::new(peers, target, &transfer, frames);
    let sent = tokio::select! {
        sent = sender.run() => sent,
        () = transfer.cancelled() => Err(Status::aborted(
            "the log that the member would need after it is not retained any more",
        )),
    };
    transfer.end(sent.as_ref().err());
    sent
}

/// Replaces the last frame by one that every version knows.
fn legacy_frames(
    frames: mpsc::Receiver<pb::SnapshotFrame>,
) -> impl Stream<Item = pb::SnapshotFrame> + Send + 'static {
    let frames = ReceiverStream::new(frames);
    futures_util::StreamExt::map(frames, |frame| pb::SnapshotFrame {
        kind: match frame.kind {
            Some(Frame::Last(last)) => Some(Frame::End(last.rows)),
            other => other,
        },
    })
}

async fn send_frame(frames: &mpsc::Sender<pb::SnapshotFrame>, kind: Frame) -> Result<(), Status> {
    let frame = pb::SnapshotFrame { kind: Some(kind) };
    frames.send(frame).await.map_err(|_| connection_lost())
}

async fn next_ack(acks: &mut Streaming<pb::SnapshotAck>) -> Result<Ack, Status> {
    let ack = acks.message().await?.and_then(|ack| ack.kind);
    ack.ok_or_else(connection_lost)
}

fn connection_lost() -> Status {
    Status::unavailable("the connection was lost")
}

fn reply_vote(reply: pb::SnapshotReply) -> Result<Vote, Status> {
    let vote = reply.vote.map(codec::vote_from_pb);
    vote.ok_or_else(|| Status::data_loss("the reply has no vote"))
}

/// Returns whether the receiver may still have what it has acknowledged.
fn is_resumable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::ResourceExhausted
            // Errors of a broken HTTP/2 connection.
            | Code::Internal
    )
}
