//! The snapshots on their way between this node and a group's other members: how far each is, how it
//! ended, and from which entry on the log is kept for it.
//!
//! Invariant: from when a snapshot's position was taken until the leader knows that its receiver has
//! it, the log behind that position is held. Else the receiver would need another snapshot at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::types::NodeId;
use crate::pace::Pace;
use crate::store::keys::GroupId;

/// Time for the leader to learn that a snapshot which it has sent is installed.
const HOLD_TIMEOUT: Duration = Duration::from_secs(60);
/// Snapshots that a node sends at once: others wait, so that those under way end.
const MAX_SENDS: usize = 4;

/// How a node sends and receives snapshots, all groups together.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// Turns of reading what is sent.
    pub send_pace: Pace,
    /// Turns of writing what is received.
    pub receive_pace: Pace,
    /// Snapshots that may be sent at once.
    pub sends: Arc<Semaphore>,
}

impl SnapshotSettings {
    /// At most so many percent of the time for sending, and as many for receiving.
    pub fn new(percent: usize) -> Self {
        Self {
            send_pace: Pace::new(percent),
            receive_pace: Pace::new(percent),
            sends: Arc::new(Semaphore::new(MAX_SENDS)),
        }
    }
}

/// Which way a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To another node.
    Sent,
    /// From another node.
    Received,
}

impl Direction {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// A snapshot on its way, or the last one between two nodes.
#[derive(Clone, Debug)]
pub struct TransferStatus {
    /// The group.
    pub group: GroupId,
    /// Which way it goes.
    pub direction: Direction,
    /// The other node.
    pub node: NodeId,
    /// Index of the entry that it is the state after, at least.
    pub index: u64,
    /// Chunks that the receiver has.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it began, or was resumed by its receiver.
    pub began: Instant,
    /// When it ended, if it has.
    pub ended: Option<Instant>,
    /// Why it failed, if it has.
    pub error: Option<String>,
}

impl TransferStatus {
    /// How long it has taken.
    pub fn took(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.began
    }

    /// Bytes a second since it began.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.took().as_secs_f64().max(1e-3)
    }

    /// `running`, `done` or `failed`.
    pub fn state(&self) -> &'static str {
        match (&self.ended, &self.error) {
            (None, _) => "running",
            (Some(_), None) => "done",
            (Some(_), Some(_)) => "failed",
        }
    }
}

/// Totals of a group's snapshots.
#[derive(Debug, Default)]
pub struct TransferCounts {
    /// Bytes that went, as their receivers have acknowledged them.
    pub bytes: AtomicU64,
    /// Snapshots that came to their end.
    pub done: AtomicU64,
    /// Snapshots that failed after they had begun.
    pub failed: AtomicU64,
}

struct Entry {
    status: TransferStatus,
    /// Whether its receiver has taken it on.
    begun: bool,
    /// The log behind this is kept for it.
    hold: Option<u64>,
    abandon: CancellationToken,
    number: u64,
}

/// The snapshots of one group.
pub struct Transfers {
    group: GroupId,
    settings: SnapshotSettings,
    numbers: AtomicU64,
    entries: Mutex<BTreeMap<(Direction, NodeId), Entry>>,
    counts: [TransferCounts; 2],
    /// The other nodes, as the log names them.
    name_of: Box<dyn Fn(NodeId) -> String + Send + Sync>,
}

impl Transfers {
    /// No snapshot yet; the log calls other nodes what `name_of` does.
    pub(super) fn new(
        group: GroupId,
        settings: SnapshotSettings,
        name_of: impl Fn(NodeId) -> String + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            settings,
            numbers: AtomicU64::new(0),
            entries: Mutex::default(),
            counts: Default::default(),
            name_of: Box::new(name_of),
        })
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    pub(super) fn send_pace(&self) -> &Pace {
        &self.settings.send_pace
    }

    pub(super) fn receive_pace(&self) -> &Pace {
        &self.settings.receive_pace
    }

    /// The right to send a snapshot; `None`: as many as may be are being sent.
    pub(super) fn may_send(&self) -> Option<OwnedSemaphorePermit> {
        self.settings.sends.clone().try_acquire_owned().ok()
    }

    /// A snapshot of the state after entry `index` begins.
    pub(super) fn begin(
        self: &Arc<Self>,
        direction: Direction,
        node: NodeId,
        index: u64,
    ) -> Transfer {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let abandon = CancellationToken::new();
        let entry = Entry {
            status: TransferStatus {
                group: self.group,
                direction,
                node,
                index,
                chunks: 0,
                bytes: 0,
                began: Instant::now(),
                ended: None,
                error: None,
            },
            begun: false,
            hold: (direction == Direction::Sent).then_some(index),
            abandon: abandon.clone(),
            number,
        };
        self.entries.lock().insert((direction, node), entry);
        Transfer {
            transfers: self.clone(),
            key: (direction, node),
            number,
            abandon,
        }
    }

    /// The lowest position behind which the log is kept for snapshots that are sent. `matched` tells
    /// which entries a node is known to have: what it needs no more isn't held for it.
    pub(super) fn held(&self, matched: impl Fn(NodeId) -> Option<u64>) -> Option<u64> {
        let mut entries = self.entries.lock();
        for ((_, node), entry) in entries.iter_mut() {
            let Some(ended) = entry.status.ended else {
                continue;
            };
            let has_it = matched(*node) >= entry.hold;
            if has_it || entry.status.error.is_some() || ended.elapsed() > HOLD_TIMEOUT {
                entry.hold = None;
            }
        }
        entries.values().filter_map(|entry| entry.hold).min()
    }

    /// Gives up the snapshots for which the log from before `index` on is kept.
    pub(super) fn abandon_before(&self, index: u64) {
        for entry in self.entries.lock().values_mut() {
            if entry.hold.is_some_and(|hold| hold < index) {
                entry.hold = None;
                entry.abandon.cancel();
            }
        }
    }

    /// The snapshots on their way, and the last one of each other node.
    pub fn statuses(&self) -> Vec<TransferStatus> {
        let entries = self.entries.lock();
        entries.values().map(|entry| entry.status.clone()).collect()
    }

    /// Totals of those that went one way.
    pub fn counts(&self, direction: Direction) -> &TransferCounts {
        &self.counts[direction as usize]
    }
}

/// A snapshot on its way. Dropped before its end, it was given up.
pub(super) struct Transfer {
    transfers: Arc<Transfers>,
    key: (Direction, NodeId),
    number: u64,
    abandon: CancellationToken,
}

impl Transfer {
    /// The group.
    pub(super) fn group(&self) -> GroupId {
        self.transfers.group
    }

    /// The other node, as the log names it.
    pub(super) fn node_name(&self) -> String {
        (self.transfers.name_of)(self.key.1)
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.transfers.entries.lock();
        // A later one may have taken its place.
        if let Some(entry) = entries.get_mut(&self.key)
            && entry.number == self.number
        {
            change(entry);
        }
    }

    /// The receiver takes it on, and has so many chunks already, and so many bytes: the log is told,
    /// the first time.
    pub(super) fn start(&self, chunks: u64, bytes: u64) {
        let group = self.group();
        self.change(|entry| {
            entry.status.chunks = chunks;
            entry.status.bytes = bytes;
            if std::mem::replace(&mut entry.begun, true) {
                return;
            }
            let status = &entry.status;
            let (index, direction) = (status.index, status.direction.name());
            let node = self.node_name();
            tracing::info!(
                %group, direction, node, index, bytes,
                "snapshot transfer begun"
            );
        });
    }

    /// The receiver has so many chunks, and so many bytes.
    pub(super) fn advance(&self, chunks: u64, bytes: u64) {
        let counts = self.transfers.counts(self.key.0);
        self.change(|entry| {
            let more = bytes.saturating_sub(entry.status.bytes);
            counts.bytes.fetch_add(more, Ordering::Relaxed);
            entry.status.chunks = chunks;
            entry.status.bytes = bytes;
        });
    }

    /// Ends when the log that the receiver would need is not kept any more.
    pub(super) async fn abandoned(&self) {
        self.abandon.cancelled().await;
    }

    /// It has ended, and why if it failed: the log is told.
    pub(super) fn end(&self, error: Option<&Status>) {
        let group = self.group();
        let counts = self.transfers.counts(self.key.0);
        self.change(|entry| {
            if entry.status.ended.is_some() {
                return;
            }
            entry.status.ended = Some(Instant::now());
            entry.status.error = error.map(|error| error.message().to_owned());
            let begun = entry.begun;
            let status = &entry.status;
            let (index, bytes) = (status.index, status.bytes);
            let node = self.node_name();
            let seconds = status.took().as_secs_f64();
            let direction = status.direction.name();
            match error {
                None if begun => {
                    counts.done.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        %group, direction, node, index, bytes, seconds,
                        "snapshot transfer ended"
                    );
                }
                Some(error) if begun => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        %group, direction, node, index, bytes, seconds, error = error.message(),
                        "snapshot transfer failed"
                    );
                }
                // Nothing went: the other node can't be reached, takes none now, or knows a later
                // leader.
                _ => tracing::debug!(
                    %group, direction, node, index, error = error.map(Status::message),
                    "snapshot transfer not begun"
                ),
            }
        });
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.end(Some(&Status::cancelled("this node leads no more")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfers() -> Arc<Transfers> {
        let settings = SnapshotSettings::new(100);
        Transfers::new(GroupId::shard(0), settings, |node| node.to_string())
    }

    #[test]
    fn the_log_is_held_until_the_receiver_is_known_to_have_the_snapshot() {
        let transfers = transfers();
        let (first, second) = (
            transfers.begin(Direction::Sent, 2, 100),
            transfers.begin(Direction::Sent, 3, 90),
        );
        transfers.begin(Direction::Received, 4, 10).end(None);
        assert_eq!(transfers.held(|_| None), Some(90));
        second.end(None);
        assert_eq!(transfers.held(|_| None), Some(90));
        assert_eq!(transfers.held(|_| Some(89)), Some(90));
        assert_eq!(transfers.held(|_| Some(90)), Some(100));
        first.end(Some(&Status::cancelled("lost")));
        assert_eq!(transfers.held(|_| None), None);
    }

    #[test]
    fn snapshots_whose_log_is_not_kept_are_given_up() {
        let transfers = transfers();
        let old = transfers.begin(Direction::Sent, 2, 100);
        let new = transfers.begin(Direction::Sent, 3, 200);
        transfers.abandon_before(150);
        assert!(old.abandon.is_cancelled() && !new.abandon.is_cancelled());
        assert_eq!(transfers.held(|_| None), Some(200));
    }

    #[test]
    fn a_later_snapshot_takes_the_place_of_one_that_is_dropped_late() {
        let transfers = transfers();
        let old = transfers.begin(Direction::Sent, 2, 100);
        let _new = transfers.begin(Direction::Sent, 2, 200);
        drop(old);
        assert_eq!(transfers.statuses()[0].state(), "running");
        assert_eq!(transfers.held(|_| None), Some(200));
    }
}
