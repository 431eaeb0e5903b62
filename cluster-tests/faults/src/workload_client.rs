//! A client that carries out the workload, and adds its calls to the history.

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::BatchOperation;
use super::call_record::{Action, CallRecord, Outcome};
use super::checker::Content;
use super::history::KeyName;
use super::key_list::KeyList;
use super::recording_client::{ClientContext, RecordingClient};
use super::workload::{Intent, PlannedBatch, Step};
use cloudkv_test_harness::rng::Rng;

/// Backoff after a call without effect, in milliseconds.
const RETRY_BACKOFF_MS: std::ops::Range<u64> = 5..50;

/// A client of one node that calls random keys.
#[derive(Debug)]
pub(super) struct WorkloadClient {
    shared: Arc<ClientContext>,
    client: RecordingClient,
    rng: Rng,
}

impl WorkloadClient {
    pub(super) fn new(shared: &Arc<ClientContext>, number: u32, seat: usize, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            client: RecordingClient::new(shared, number, seat),
            rng: Rng::derived(seed, u64::from(number)),
        }
    }

    /// Calls until the run is stopped.
    pub(super) async fn run(mut self) {
        while !self.shared.is_stopped() {
            let generation = self.shared.history.generation();
            let has_new_calls = self.shared.has_new_calls();
            let is_answered = match Step::draw(&mut self.rng, generation, has_new_calls) {
                Step::Call(key, intent) => self.carry_out(key, intent).await,
                Step::Batch(batch) => self.carry_out_batch(batch).await,
                Step::List(list) => self.list(&list).await,
            };
            if !is_answered {
                tokio::time::sleep(self.rng.millis(RETRY_BACKOFF_MS)).await;
            }
            if !self.shared.think_time_ms.is_empty() {
                tokio::time::sleep(self.rng.millis(self.shared.think_time_ms.clone())).await;
            }
        }
    }

    /// Carries out a call, and the read before it that a condition needs. Returns whether there was
    /// an answer.
    async fn carry_out(&mut self, key: KeyName, intent: Intent) -> bool {
        let content = self.shared.new_content();
        if let Some(action) = intent.action(content) {
            return is_answered(&self.call(key, action, None).await);
        }
        let read = self.call(key, Action::Get, None).await;
        let (Outcome::Read(was), Some(etag)) = (read.outcome, &read.etag) else {
            return is_answered(&read);
        };
        let action = intent.conditional_action(was, content);
        is_answered(&self.call(key, action, Some(etag)).await)
    }

    /// Carries out a batch, and the batch of reads before it that conditions need.
    async fn carry_out_batch(&mut self, batch: PlannedBatch) -> bool {
        let reads = batch.reads();
        let mut present = HashMap::new();
        if !reads.is_empty() {
            let records = self.call_batch(&reads).await;
            if !records.iter().all(|(_, record)| is_answered(record)) {
                return false;
            }
            present = present_contents(&records);
        }
        let operations = batch.operations(&present, || self.shared.new_content());
        let records = self.call_batch(&operations).await;
        records.iter().all(|(_, record)| is_answered(record))
    }

    async fn list(&mut self, list: &KeyList) -> bool {
        let Some(reads) = self.client.list(list).await else {
            return false;
        };
        for (key, record) in reads {
            self.shared.history.record(key, record);
        }
        true
    }

    async fn call(&mut self, key: KeyName, action: Action, etag: Option<&str>) -> CallRecord {
        let record = self.client.send(key, action, etag).await;
        self.shared.history.record(key, record.clone());
        record
    }

    async fn call_batch(&mut self, operations: &[BatchOperation]) -> Vec<(KeyName, CallRecord)> {
        let records = self.client.send_batch(operations, None).await.records;
        for (key, record) in &records {
            self.shared.history.record(*key, record.clone());
        }
        records
    }
}

/// Returns the contents and versions that reads have found.
pub(super) fn present_contents(
    records: &[(KeyName, CallRecord)],
) -> HashMap<KeyName, (Content, Box<str>)> {
    let found = records
        .iter()
        .filter_map(|(key, record)| match (record.outcome, &record.etag) {
            (Outcome::Read(content), Some(etag)) => Some((*key, (content, etag.clone()))),
            _ => None,
        });
    found.collect()
}

fn is_answered(record: &CallRecord) -> bool {
    !matches!(record.outcome, Outcome::Unknown | Outcome::NotDone)
}
