//! Backups that are made while faults happen.
//!
//! A backup reads each key at some time between its begin and its end. So what the restored key
//! holds is recorded as the answer to a read that took this time, and is checked with all other
//! calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use super::call_record::CallRecord;
use super::history::History;
use super::history_checker::read_key;
use super::recording_client::ClientContext;
use cloudkv_test_harness::backup::{BackupFolder, CompletedBackup, back_up, restore};
use cloudkv_test_harness::{Node, NodeOptions};

/// Pause between two attempts. Histories of keys are checked some seconds after their last use.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(2);

/// Makes backups, one after the other, at each node in turn.
pub(super) struct BackupClient {
    shared: Arc<ClientContext>,
    /// Addresses of the nodes' admin ports.
    admin: Vec<SocketAddr>,
    folder: BackupFolder,
    completed: u64,
    resumed: u64,
    failed: u64,
    last: Option<TimedBackup>,
}

/// A complete backup.
struct TimedBackup {
    id: String,
    /// Time before the begin of its first attempt, in nanoseconds since the run's start.
    start: u64,
    /// Time after its end.
    end: u64,
}

impl BackupClient {
    pub(super) fn new(shared: &Arc<ClientContext>, admin: Vec<SocketAddr>) -> Self {
        Self {
            shared: shared.clone(),
            admin,
            folder: BackupFolder::create(),
            completed: 0,
            resumed: 0,
            failed: 0,
            last: None,
        }
    }

    /// Makes backups until the run is stopped. One that fails is gone on with by the next attempt.
    pub(super) async fn run(mut self) -> Self {
        let url = self.folder.url();
        let mut begun = None;
        for admin in self.admin.clone().into_iter().cycle() {
            if self.shared.is_stopped() {
                break;
            }
            let start = *begun.get_or_insert_with(|| self.shared.history.now());
            let output = back_up(admin, &url, &["--json"]).await;
            let end = self.shared.history.now();
            match output.code {
                Some(0) => {
                    let backup = CompletedBackup::from_output(&output);
                    self.completed += 1;
                    self.resumed += u64::from(backup.is_resumed);
                    let id = backup.id;
                    self.last = Some(TimedBackup { id, start, end });
                    begun = None;
                }
                Some(1) => self.failed += 1,
                _ => {
                    let anomaly = format!("a backup ended unexpectedly: {output}");
                    self.shared.history.record_anomaly(anomaly);
                }
            }
            tokio::time::sleep(ATTEMPT_INTERVAL).await;
        }
        self
    }

    /// Restores the last backup, and adds what it holds to the histories that aren't checked yet.
    /// Returns a note for the report.
    ///
    /// # Errors
    /// Returns a failure if there is no backup, or if a key can't be read.
    ///
    /// # Panics
    /// Panics if it isn't restored, or if no node starts from it.
    pub(super) async fn add_reads(&self) -> Result<String, String> {
        let Self {
            completed,
            resumed,
            failed,
            ..
        } = self;
        let Some(last) = &self.last else {
            return Err(format!("no backup became complete, {failed} failed"));
        };
        let options = NodeOptions {
            region: None,
            shards: None,
            ..NodeOptions::default()
        };
        let node = Node::start_on(options, async |data_dir| {
            let restored = restore(&self.folder.url(), &data_dir, &["--id", &last.id]).await;
            restored.assert_success();
        })
        .await;
        let restored = Arc::new(ClientContext {
            history: History::new(),
            bucket: self.shared.bucket.clone(),
            nodes: vec![node.http()],
            last_write: AtomicU64::new(0),
            think_time_ms: 0..0,
            has_new_calls: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let keys = self.shared.history.unchecked_keys();
        for (index, key) in keys.iter().enumerate() {
            let read = read_key(&restored, *key, index).await;
            let read = read.ok_or_else(|| format!("{key} can't be read from a backup"))?;
            let record = CallRecord {
                start: last.start,
                end: last.end,
                ..read
            };
            self.shared.history.record_uncounted(*key, record);
        }
        Ok(format!(
            "backups: {completed} complete, of them {resumed} resumed; {failed} attempts failed; \
             {} keys of the last one were checked",
            keys.len()
        ))
    }
}
