//! Sends a snapshot to a member, over as many connections as it takes.
//!
//! One view of the state is read, once, by a thread that stays a few chunks ahead. Its chunks are
//! numbered, and kept until the receiver has acknowledged them, so that
//!
//! - no more than [`WINDOW`] chunks are under way: what else the link carries doesn't wait behind
//!   many, and an acknowledgement tells what has arrived, not what a buffer has taken;
//! - a transfer is alive while chunks are acknowledged, however slow the link is;
//! - over a new connection it goes on behind the last chunk that the receiver has.
//!
//! The view ends with the transfer: when it is done, when its receiver doesn't have what it has
//! acknowledged any more, when nothing has moved for [`RESUME_TIMEOUT`], or when the sender doesn't
//! lead any more.

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
use super::reception::RESUME_TIMEOUT;
use super::snapshot::SnapshotData;
use super::transfers::{Direction, Transfer, Transfers};
use super::types::{NodeId, Vote};
use crate::rpc::Peers;

/// Chunks that are not acknowledged yet.
const WINDOW: usize = 4;
/// Time for a connection, and for the first answer on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which no chunk is acknowledged for this long is given up for a new one.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the receiver to flush a snapshot and to install it.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Time before a transfer is resumed.
const RESUME_BACKOFF: Duration = Duration::from_millis(500);

/// A snapshot that is being sent.
struct Sending<'a> {
    peers: &'a Peers,
    node: NodeId,
    transfer: &'a Transfer,
    /// Head, chunks and last frame, as they are read.
    frames: mpsc::Receiver<pb::SnapshotFrame>,
    /// Read, and not acknowledged.
    unacknowledged: VecDeque<pb::SnapshotChunk>,
    /// Chunks before those, and their bytes.
    acknowledged: u64,
    bytes: u64,
    last: Option<pb::SnapshotEnd>,
    moved: Instant,
}

impl<'a> Sending<'a> {
    fn new(
        peers: &'a Peers,
        node: NodeId,
        transfer: &'a Transfer,
        frames: mpsc::Receiver<pb::SnapshotFrame>,
    ) -> Self {
        Self {
            peers,
            node,
            transfer,
            frames,
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            bytes: 0,
            last: None,
            moved: Instant::now(),
        }
    }

    /// Sends it; returns the vote of its receiver.
    async fn run(mut self) -> Result<Vote, Status> {
        let Some(Frame::Head(head)) = self.frames.recv().await.and_then(|frame| frame.kind) else {
            return Err(Status::internal("the state can't be read"));
        };
        loop {
            let status = match self.connection(&head).await {
                Ok(vote) => return Ok(vote),
                Err(status) if status.code() == Code::Unimplemented && self.acknowledged == 0 => {
                    return self.send_at_once(head).await;
                }
                Err(status) => status,
            };
            let begun = self.acknowledged > 0;
            if !begun || !is_resumable(&status) || self.moved.elapsed() > RESUME_TIMEOUT {
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

    /// Goes on over a connection of its own, to the end of the snapshot or of the connection.
    async fn connection(&mut self, head: &pb::SnapshotHead) -> Result<Vote, Status> {
        let (frames, stream) = mpsc::channel(1);
        let head = pb::SnapshotHead {
            acknowledged: self.acknowledged,
            ..head.clone()
        };
        send(&frames, Frame::Head(head)).await?;
        let opened = async {
            let mut acks = self
                .peers
                .send_snapshot(self.node, ReceiverStream::new(stream))
                .await?;
            let first = next(&mut acks).await?;
            Ok::<_, Status>((acks, first))
        };
        let late = |_| Status::deadline_exceeded("no answer to the head of a snapshot");
        let (mut acks, first) = tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(late)??;
        match first {
            Ack::Installed(reply) => return vote_of(reply),
            Ack::Chunks(chunks) => self.acknowledge(chunks)?,
        }
        self.transfer.start(self.acknowledged, self.bytes);
        self.pump(&frames, &mut acks).await
    }

    async fn pump(
        &mut self,
        frames: &mpsc::Sender<pb::SnapshotFrame>,
        acks: &mut Streaming<pb::SnapshotAck>,
    ) -> Result<Vote, Status> {
        // Of the chunks that aren't acknowledged, how many went over this connection.
        let mut sent = 0;
        let mut ended = false;
        let mut moved = Instant::now();
        loop {
            let all_sent = sent == self.unacknowledged.len();
            let has_more = !all_sent || (self.last.is_some() && !ended);
            let reads = all_sent && self.last.is_none() && sent < WINDOW;
            let limit = if ended { INSTALL_TIMEOUT } else { ACK_TIMEOUT };
            tokio::select! {
                ack = next(acks) => match ack? {
                    Ack::Installed(reply) => return vote_of(reply),
                    Ack::Chunks(chunks) => {
                        let before = self.unacknowledged.len();
                        self.acknowledge(chunks)?;
                        sent = sent.saturating_sub(before - self.unacknowledged.len());
                        moved = Instant::now();
                    }
                },
                frame = self.frames.recv(), if reads => self.take(frame)?,
                permit = frames.reserve(), if has_more => {
                    let permit = permit.map_err(|_| lost())?;
                    let kind = match (self.unacknowledged.get(sent), &self.last) {
                        (Some(chunk), _) => {
                            sent += 1;
                            Frame::Chunk(chunk.clone())
                        }
                        (None, Some(last)) => {
                            ended = true;
                            moved = Instant::now();
                            Frame::Last(*last)
                        }
                        (None, None) => continue,
                    };
                    permit.send(pb::SnapshotFrame { kind: Some(kind) });
                }
                () = tokio::time::sleep_until((moved + limit).into()) => {
                    return Err(Status::deadline_exceeded("no chunk is acknowledged"));
                }
            }
        }
    }

    /// Takes a frame that was read.
    fn take(&mut self, frame: Option<pb::SnapshotFrame>) -> Result<(), Status> {
        match frame.and_then(|frame| frame.kind) {
            Some(Frame::Chunk(chunk)) => self.unacknowledged.push_back(chunk),
            Some(Frame::Last(last)) => self.last = Some(last),
            // The thread that reads has said why.
            Some(Frame::Head(_) | Frame::End(_)) | None => {
                return Err(Status::internal("the state can't be read"));
            }
        }
        Ok(())
    }

    /// The receiver has so many chunks.
    fn acknowledge(&mut self, chunks: u64) -> Result<(), Status> {
        let next = self.acknowledged + self.unacknowledged.len() as u64;
        if chunks < self.acknowledged || chunks > next {
            return Err(Status::failed_precondition(
                "the receiver has other chunks than it was sent",
            ));
        }
        while self.acknowledged < chunks {
            if let Some(chunk) = self.unacknowledged.pop_front() {
                self.bytes += super::snapshot::chunk_bytes(&chunk);
            }
            self.acknowledged += 1;
            self.moved = Instant::now();
        }
        self.transfer.advance(self.acknowledged, self.bytes);
        Ok(())
    }

    /// Sends all of it to a node of a version that acknowledges nothing.
    async fn send_at_once(self, head: pb::SnapshotHead) -> Result<Vote, Status> {
        let head = pb::SnapshotFrame {
            kind: Some(Frame::Head(head)),
        };
        let frames = rows_counted(self.frames);
        let frames = futures_util::StreamExt::chain(stream::iter([head]), frames);
        self.transfer.start(0, 0);
        let reply = self.peers.install_snapshot(self.node, frames).await?;
        vote_of(reply)
    }
}

/// Sends a snapshot of the state after entry `index`, or a later one, to a member; returns the vote
/// of its receiver. `transfers` show how far it is.
pub(super) async fn send_snapshot(
    peers: &Peers,
    transfers: &Arc<Transfers>,
    to: NodeId,
    data: SnapshotData,
    vote: &Vote,
    index: u64,
) -> Result<Vote, Status> {
    let busy = || Status::resource_exhausted("other snapshots are being sent");
    let _permit = transfers.may_send().ok_or_else(busy)?;
    let transfer = transfers.begin(Direction::Sent, to, index);
    let pace = transfers.send_pace().clone();
    let frames = data.frames(transfers.group(), vote, pace);
    let sending = Sending::new(peers, to, &transfer, frames);
    let sent = tokio::select! {
        sent = sending.run() => sent,
        () = transfer.abandoned() => Err(Status::aborted(
            "the log that the member would need after it is not kept any more",
        )),
    };
    transfer.end(sent.as_ref().err());
    sent
}

/// The frames with a last one that every version knows.
fn rows_counted(
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

async fn send(frames: &mpsc::Sender<pb::SnapshotFrame>, kind: Frame) -> Result<(), Status> {
    let frame = pb::SnapshotFrame { kind: Some(kind) };
    frames.send(frame).await.map_err(|_| lost())
}

async fn next(acks: &mut Streaming<pb::SnapshotAck>) -> Result<Ack, Status> {
    let ack = acks.message().await?.and_then(|ack| ack.kind);
    ack.ok_or_else(lost)
}

fn lost() -> Status {
    Status::unavailable("the connection has ended")
}

fn vote_of(reply: pb::SnapshotReply) -> Result<Vote, Status> {
    let vote = reply.vote.map(codec::vote_from_pb);
    vote.ok_or_else(|| Status::data_loss("an answer without a vote"))
}

/// Whether the receiver may still have what it has acknowledged.
fn is_resumable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::ResourceExhausted
            // What HTTP/2 breaks with.
            | Code::Internal
    )
}
