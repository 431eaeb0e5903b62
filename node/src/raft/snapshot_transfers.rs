//! Snapshot transfers between this node and a group's other members: their progress and result, and
//! the log that is retained for them.
//!
//! Invariant: from when a snapshot's position was taken until the leader knows that its receiver
//! has it, the log behind that position is retained. Else the receiver would need another snapshot
//! at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::background::BackgroundScheduler;
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Time for which a partial snapshot is kept for its sender to resume.
pub(super) const RESUME_TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum time for the leader to learn that a snapshot which it has sent is installed.
const LOG_RETENTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of snapshots that a node sends at once: others wait, so that those in progress
/// finish.
const MAX_CONCURRENT_SENDS: usize = 4;

/// Limits of sending and receiving snapshots, shared by all groups of a node.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// Scheduler of reading what is sent.
    pub send_scheduler: BackgroundScheduler,
    /// Scheduler of writing what is received.
    pub receive_scheduler: BackgroundScheduler,
    /// Permits of concurrent sends.
    pub send_permits: Arc<Semaphore>,
}

impl SnapshotSettings {
    /// Limits sending to `percent` of the time, and receiving to as much.
    pub fn new(percent: usize) -> Self {
        Self {
            send_scheduler: BackgroundScheduler::new(percent),
            receive_scheduler: BackgroundScheduler::new(percent),
            send_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_SENDS)),
        }
    }
}

/// Direction of a snapshot transfer, as seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransferDirection {
    /// To another node.
    Sent,
    /// From another node.
    Received,
}

impl TransferDirection {
    /// Name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// Status of a transfer in progress, or of the last one between two nodes.
#[derive(Clone, Debug)]
pub struct TransferStatus {
    /// Id of the group.
    pub group: GroupId,
    /// Direction of the transfer.
    pub direction: TransferDirection,
    /// Number of the other node.
    pub node: NodeId,
    /// Index of the entry after which the state was read, at least.
    pub index: u64,
    /// Number of chunks that the receiver has.
    pub chunks: u64,
    /// Bytes of these chunks.
    pub bytes: u64,
    /// Start of the transfer, or of its last resumption by the receiver.
    pub started_at: Instant,
    /// End of the transfer, if it has ended.
    pub ended_at: Option<Instant>,
    /// Error of the transfer, if it has failed.
    pub error: Option<String>,
}

impl TransferStatus {
    /// Duration so far, or in total.
    pub fn elapsed(&self) -> Duration {
        self.ended_at.unwrap_or_else(Instant::now) - self.started_at
    }

    /// Average rate in bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed().as_secs_f64().max(1e-3)
    }

    /// `running`, `done` or `failed`.
    pub fn state(&self) -> &'static str {
        match (&self.ended_at, &self.error) {
            (None, _) => "running",
            (Some(_), None) => "done",
            (Some(_), Some(_)) => "failed",
        }
    }
}

/// Totals of a group's snapshot transfers.
#[derive(Debug, Default)]
pub struct TransferCounts {
    /// Bytes transferred, as acknowledged by their receivers.
    pub bytes: AtomicU64,
    /// Number of completed transfers.
    pub completed: AtomicU64,
    /// Number of transfers that failed after they had started.
    pub failed: AtomicU64,
}

struct TransferEntry {
    status: TransferStatus,
    /// Set once its receiver has accepted it.
    is_started: bool,
    /// Position behind which the log is retained for it.
    retained_index: Option<u64>,
    cancel: CancellationToken,
    id: u64,
}

/// Snapshot transfers of one group.
pub struct SnapshotTransfers {
    group: GroupId,
    settings: SnapshotSettings,
    next_id: AtomicU64,
    entries: Mutex<BTreeMap<(TransferDirection, NodeId), TransferEntry>>,
    counts: [TransferCounts; 2],
    /// Names of the other nodes in logs.
    name_of: Box<dyn Fn(NodeId) -> String + Send + Sync>,
}

impl SnapshotTransfers {
    /// Creates an empty list; `name_of` names other nodes in logs.
    pub(super) fn new(
        group: GroupId,
        settings: SnapshotSettings,
        name_of: impl Fn(NodeId) -> String + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            settings,
            next_id: AtomicU64::new(0),
            entries: Mutex::default(),
            counts: Default::default(),
            name_of: Box::new(name_of),
        })
    }

    /// Id of the group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    pub(super) fn send_scheduler(&self) -> &BackgroundScheduler {
        &self.settings.send_scheduler
    }

    pub(super) fn receive_scheduler(&self) -> &BackgroundScheduler {
        &self.settings.receive_scheduler
    }

    /// Takes a permit to send a snapshot; `None` if the maximum number is being sent.
    pub(super) fn try_acquire_send(&self) -> Option<OwnedSemaphorePermit> {
        self.settings.send_permits.clone().try_acquire_owned().ok()
    }

    /// Starts a transfer of the state after entry `index`.
    pub(super) fn begin(
        self: &Arc<Self>,
        direction: TransferDirection,
        node: NodeId,
        index: u64,
    ) -> SnapshotTransfer {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let abandon = CancellationToken::new();
        let entry = TransferEntry {
            status: TransferStatus {
                group: self.group,
                direction,
                node,
                index,
                chunks: 0,
                bytes: 0,
                started_at: Instant::now(),
                ended_at: None,
                error: None,
            },
            is_started: false,
            retained_index: (direction == TransferDirection::Sent).then_some(index),
            cancel: abandon.clone(),
            id: number,
        };
        self.entries.lock().insert((direction, node), entry);
        SnapshotTransfer {
            transfers: self.clone(),
            key: (direction, node),
            id: number,
            cancel: abandon,
        }
    }

    /// Returns the lowest position behind which the log is retained for snapshots that are sent.
    /// `matched` returns the last entry that a node is known to have: what it doesn't need any more
    /// isn't retained for it.
    pub(super) fn retained_index(&self, matched: impl Fn(NodeId) -> Option<u64>) -> Option<u64> {
        let mut entries = self.entries.lock();
        for ((_, node), entry) in entries.iter_mut() {
            let Some(ended) = entry.status.ended_at else {
                continue;
            };
            let is_installed = matched(*node) >= entry.retained_index;
            if is_installed
                || entry.status.error.is_some()
                || ended.elapsed() > LOG_RETENTION_TIMEOUT
            {
                entry.retained_index = None;
            }
        }
        entries
            .values()
            .filter_map(|entry| entry.retained_index)
            .min()
    }

    /// Cancels the transfers for which the log before `index` is retained.
    pub(super) fn cancel_before(&self, index: u64) {
        for entry in self.entries.lock().values_mut() {
            if entry.retained_index.is_some_and(|hold| hold < index) {
                entry.retained_index = None;
                entry.cancel.cancel();
            }
        }
    }

    /// Statuses of the transfers in progress, and of the last one with each other node.
    pub fn statuses(&self) -> Vec<TransferStatus> {
        let entries = self.entries.lock();
        entries.values().map(|entry| entry.status.clone()).collect()
    }

    /// Totals of one direction.
    pub fn counts(&self, direction: TransferDirection) -> &TransferCounts {
        &self.counts[direction as usize]
    }
}

/// A transfer in progress. If it is dropped before its end, it has failed.
pub(super) struct SnapshotTransfer {
    transfers: Arc<SnapshotTransfers>,
    key: (TransferDirection, NodeId),
    id: u64,
    cancel: CancellationToken,
}

impl SnapshotTransfer {
    /// Id of the group.
    pub(super) fn group(&self) -> GroupId {
        self.transfers.group
    }

    /// Name of the other node in logs.
    pub(super) fn node_name(&self) -> String {
        (self.transfers.name_of)(self.key.1)
    }

    fn update(&self, change: impl FnOnce(&mut TransferEntry)) {
        let mut entries = self.transfers.entries.lock();
        // A later transfer may have replaced it.
        if let Some(entry) = entries.get_mut(&self.key)
            && entry.id == self.id
        {
            change(entry);
        }
    }

    /// Records that the receiver has accepted it, and has `chunks` chunks of `bytes` bytes already.
    /// Logged the first time.
    pub(super) fn start(&self, chunks: u64, bytes: u64) {
        let group = self.group();
        self.update(|entry| {
            entry.status.chunks = chunks;
            entry.status.bytes = bytes;
            if std::mem::replace(&mut entry.is_started, true) {
                return;
            }
            let status = &entry.status;
            let (index, direction) = (status.index, status.direction.as_str());
            let node = self.node_name();
            tracing::info!(
                %group, direction, node, index, bytes,
                "snapshot transfer started"
            );
        });
    }

    /// Records that the receiver has `chunks` chunks of `bytes` bytes.
    pub(super) fn advance(&self, chunks: u64, bytes: u64) {
        let counts = self.transfers.counts(self.key.0);
        self.update(|entry| {
            let added = bytes.saturating_sub(entry.status.bytes);
            counts.bytes.fetch_add(added, Ordering::Relaxed);
            entry.status.chunks = chunks;
            entry.status.bytes = bytes;
        });
    }

    /// Waits until the log that the receiver would need is not retained any more.
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Records and logs the end of the transfer, and the error if it failed.
    pub(super) fn end(&self, error: Option<&Status>) {
        let group = self.group();
        let counts = self.transfers.counts(self.key.0);
        self.update(|entry| {
            if entry.status.ended_at.is_some() {
                return;
            }
            entry.status.ended_at = Some(Instant::now());
            entry.status.error = error.map(|error| error.message().to_owned());
            let is_started = entry.is_started;
            let status = &entry.status;
            let (index, bytes) = (status.index, status.bytes);
            let node = self.node_name();
            let seconds = status.elapsed().as_secs_f64();
            let direction = status.direction.as_str();
            match error {
                None if is_started => {
                    counts.completed.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        %group, direction, node, index, bytes, seconds,
                        "snapshot transfer ended"
                    );
                }
                Some(error) if is_started => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        %group, direction, node, index, bytes, seconds, error = error.message(),
                        "snapshot transfer failed"
                    );
                }
                // Nothing was transferred: the other node can't be reached, accepts none now, or
                // knows a later leader.
                _ => tracing::debug!(
                    %group, direction, node, index, error = error.map(Status::message),
                    "snapshot transfer not started"
                ),
            }
        });
    }
}

impl Drop for SnapshotTransfer {
    fn drop(&mut self) {
        self.end(Some(&Status::cancelled("this node does not lead any more")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfers() -> Arc<SnapshotTransfers> {
        let settings = SnapshotSettings::new(100);
        SnapshotTransfers::new(GroupId::shard(0), settings, |node| node.to_string())
    }

    fn id(number: u64) -> NodeId {
        NodeId::from(number)
    }

    #[test]
    fn the_log_is_retained_until_the_receiver_is_known_to_have_the_snapshot() {
        let transfers = transfers();
        let (first, second) = (
            transfers.begin(TransferDirection::Sent, id(2), 100),
            transfers.begin(TransferDirection::Sent, id(3), 90),
        );
        transfers
            .begin(TransferDirection::Received, id(4), 10)
            .end(None);
        assert_eq!(transfers.retained_index(|_| None), Some(90));
        second.end(None);
        assert_eq!(transfers.retained_index(|_| None), Some(90));
        assert_eq!(transfers.retained_index(|_| Some(89)), Some(90));
        assert_eq!(transfers.retained_index(|_| Some(90)), Some(100));
        first.end(Some(&Status::cancelled("lost")));
        assert_eq!(transfers.retained_index(|_| None), None);
    }

    #[test]
    fn transfers_whose_log_is_not_retained_are_cancelled() {
        let transfers = transfers();
        let old = transfers.begin(TransferDirection::Sent, id(2), 100);
        let new = transfers.begin(TransferDirection::Sent, id(3), 200);
        transfers.cancel_before(150);
        assert!(old.cancel.is_cancelled() && !new.cancel.is_cancelled());
        assert_eq!(transfers.retained_index(|_| None), Some(200));
    }

    #[test]
    fn a_later_transfer_replaces_one_that_is_dropped_late() {
        let transfers = transfers();
        let old = transfers.begin(TransferDirection::Sent, id(2), 100);
        let _new = transfers.begin(TransferDirection::Sent, id(2), 200);
        drop(old);
        assert_eq!(transfers.statuses()[0].state(), "running");
        assert_eq!(transfers.retained_index(|_| None), Some(200));
    }
}
