//! Batches on a store whose reads and writes fail as the tests want.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::time::sleep;

use super::*;
use crate::types::{Touch, Version};

/// Timeout of a write, where a test waits for its end.
const SHORT_TIMEOUT: Duration = Duration::from_millis(100);
const LONG_TIMEOUT: Duration = Duration::from_secs(60);

/// Store without keys.
#[derive(Default)]
struct FakeStore {
    /// Result of reads and of waiting for the session, if they fail: after a time.
    failure: Option<(Duration, Unavailable)>,
    /// Time that a write takes.
    write_time: Duration,
    /// True if each key has its own shard, which its first byte says.
    has_shards: bool,
    reads: AtomicUsize,
    waits: AtomicUsize,
    /// Keys of each write. The outcome of those that begin with `?` is unknown.
    writes: Mutex<Vec<Vec<Bytes>>>,
}

impl FakeStore {
    fn failing(after: Duration, reason: Unavailable) -> Self {
        Self {
            failure: Some((after, reason)),
            ..Self::default()
        }
    }

    async fn wait(&self) -> Result<(), KeyError> {
        match &self.failure {
            None => Ok(()),
            Some((after, reason)) => {
                sleep(*after).await;
                Err(reason.clone().into())
            }
        }
    }

    /// Executes a batch such as `get a`, `delete b` and `touch c`.
    async fn execute(&self, timeout: Duration, operations: &[String]) -> Vec<BatchOutcome> {
        let execution = Execution::new(self, &Unbounded, timeout);
        let operations = operations.iter().map(|text| operation(text)).collect();
        execution.execute(operations).await
    }

    fn written(&self) -> Vec<Vec<Bytes>> {
        self.writes.lock().unwrap().clone()
    }
}

impl BatchStore for FakeStore {
    fn shard_of(&self, key: &[u8]) -> u16 {
        if self.has_shards {
            u16::from(key[0])
        } else {
            0
        }
    }

    fn has_seen(&self, _shard: u16) -> bool {
        true
    }

    async fn read(&self, _key: &[u8]) -> Result<ReadResult, KeyError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.wait().await.map(|()| ReadResult::Missing)
    }

    async fn await_session(&self, _key: &[u8]) -> Result<(), KeyError> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.wait().await
    }

    async fn write(
        &self,
        _shard: u16,
        writes: Vec<(Bytes, KeyWrite)>,
        end: Instant,
    ) -> Vec<Result<WriteReceipt, KeyError>> {
        let keys: Vec<Bytes> = writes.into_iter().map(|(key, _)| key).collect();
        if !keys.is_empty() {
            self.writes.lock().unwrap().push(keys.clone());
        }
        let done = timeout_at(end, sleep(self.write_time)).await.is_ok();
        let receipt = WriteReceipt {
            version: Version::default(),
            existed: false,
            expires_at: None,
        };
        let is_known = |key: &Bytes| done && !key.starts_with(b"?");
        let keys = keys.iter();
        keys.map(|key| is_known(key).then_some(receipt))
            .map(|receipt| receipt.ok_or(KeyError::UnknownOutcome))
            .collect()
    }
}

/// Budget without bounds.
struct Unbounded;

impl ValueBudget for Unbounded {
    fn admit(&self, _key: &[u8], _value: &StoredValue) -> ValueAdmission {
        ValueAdmission::Admitted
    }
}

fn operation(text: &str) -> BatchOperation {
    let (kind, key) = text.split_once(' ').unwrap();
    let key = Bytes::copy_from_slice(key.as_bytes());
    let precondition = Precondition::None;
    let write = match kind {
        "get" => return BatchOperation::Get { key, precondition },
        "delete" => KeyWrite::Delete(precondition),
        "touch" => KeyWrite::Touch(Touch {
            expiry: None,
            metadata: None,
            precondition,
        }),
        other => panic!("{other}"),
    };
    BatchOperation::Write { key, write }
}

fn batch(operations: &[&str]) -> Vec<String> {
    operations.iter().map(|text| (*text).to_owned()).collect()
}

fn gets(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("get {number}")).collect()
}

/// Names of outcomes.
fn names(outcomes: &[BatchOutcome]) -> Vec<&'static str> {
    let name = |outcome: &BatchOutcome| match outcome {
        BatchOutcome::Written(_) => "written",
        BatchOutcome::Missing => "missing",
        BatchOutcome::AfterUnknownOutcome => "after unknown",
        BatchOutcome::Failed(KeyError::UnknownOutcome) => "unknown",
        BatchOutcome::Failed(KeyError::Unavailable(reason)) => match reason {
            Unavailable::Behind => "behind",
            Unavailable::NoLeader { .. } => "no leader",
            Unavailable::Overloaded { .. } => "no time",
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(name).collect()
}

#[tokio::test]
async fn reads_of_a_shard_that_cannot_serve_them_wait_once() {
    let group = "shard 0".to_owned();
    for (reason, name) in [
        (Unavailable::Behind, "behind"),
        (Unavailable::NoLeader { group }, "no leader"),
    ] {
        let store = FakeStore::failing(SHORT_TIMEOUT, reason);
        let outcomes = store.execute(LONG_TIMEOUT, &gets(999)).await;
        assert_eq!(names(&outcomes), [name; 999]);
        assert_eq!(store.reads.into_inner(), MAX_CONCURRENT_READS);
    }
}

#[tokio::test]
async fn errors_of_one_read_are_not_those_of_others() {
    let queue = "disk reads";
    let store = FakeStore::failing(Duration::ZERO, Unavailable::Overloaded { queue });
    store.execute(LONG_TIMEOUT, &gets(100)).await;
    assert_eq!(store.reads.into_inner(), 100);
}

#[tokio::test]
async fn reads_end_within_three_timeouts_whatever_they_wait_for() {
    let store = FakeStore {
        has_shards: true,
        ..FakeStore::failing(LONG_TIMEOUT, Unavailable::Behind)
    };
    let started = Instant::now();
    let outcomes = store.execute(SHORT_TIMEOUT, &gets(100)).await;
    let elapsed = started.elapsed();
    assert_eq!(names(&outcomes), ["no time"; 100]);
    assert_eq!(store.reads.into_inner(), MAX_CONCURRENT_READS);
    assert!(
        (3 * SHORT_TIMEOUT..LONG_TIMEOUT).contains(&elapsed),
        "{elapsed:?}"
    );
}

#[tokio::test]
async fn reads_that_begin_too_late_are_not_done() {
    // Three of them begin in time, one after the other.
    let store = FakeStore {
        has_shards: true,
        ..FakeStore::failing(SHORT_TIMEOUT * 4 / 5, Unavailable::Behind)
    };
    let shards = (b'0'..=b'z').map(|shard| format!("get {}", char::from(shard)));
    let operations: Vec<String> = shards.collect();
    assert!(operations.len() > 4 * MAX_CONCURRENT_READS);
    let outcomes = store.execute(SHORT_TIMEOUT, &operations).await;
    let names = names(&outcomes);
    let late = names.iter().filter(|name| **name == "no time").count();
    let reads = store.reads.into_inner();
    assert!(reads <= 3 * MAX_CONCURRENT_READS, "{reads}");
    assert!(late >= operations.len() - reads, "{names:?}");
    assert!(names.contains(&"behind"), "{names:?}");
}

#[tokio::test]
async fn a_key_is_left_alone_after_a_write_of_unknown_outcome() {
    let store = FakeStore::default();
    let operations = batch(&[
        "get ?a",
        "delete ?a",
        "delete b",
        "get ?a",
        "delete ?a",
        "get b",
        "touch ?a",
        "touch b",
        "get ?a",
        "get c",
    ]);
    let outcomes = store.execute(LONG_TIMEOUT, &operations).await;
    let after = "after unknown";
    assert_eq!(
        names(&outcomes),
        [
            "missing", "unknown", "written", after, after, "missing", after, "written", after,
            "missing"
        ]
    );
    let written = store.written().concat();
    assert_eq!(written.iter().filter(|key| **key == "?a").count(), 1);
    assert_eq!(store.reads.into_inner(), 3);
}

#[tokio::test]
async fn writes_that_would_begin_too_late_are_not_done() {
    let store = FakeStore {
        write_time: SHORT_TIMEOUT * 5 / 2,
        ..FakeStore::default()
    };
    let operations = batch(&["delete a", "delete a", "get a", "touch b", "get c"]);
    let outcomes = store.execute(SHORT_TIMEOUT, &operations).await;
    assert_eq!(
        names(&outcomes),
        ["written", "no time", "no time", "written", "missing"]
    );
    assert_eq!(store.written(), [["a", "b"]]);
}

#[tokio::test]
async fn writes_end_within_three_timeouts() {
    let store = FakeStore {
        write_time: LONG_TIMEOUT,
        ..FakeStore::default()
    };
    let started = Instant::now();
    let operations = batch(&["delete a", "delete a", "delete b"]);
    let outcomes = store.execute(SHORT_TIMEOUT, &operations).await;
    assert!(started.elapsed() < LONG_TIMEOUT);
    assert_eq!(names(&outcomes), ["unknown", "after unknown", "unknown"]);
}

#[tokio::test]
async fn touches_wait_for_the_session_once() {
    let store = FakeStore::failing(SHORT_TIMEOUT, Unavailable::Behind);
    let operations = batch(&[
        "touch a", "touch b", "delete c", "touch a", "get a", "touch c",
    ]);
    let outcomes = store.execute(LONG_TIMEOUT, &operations).await;
    assert_eq!(
        names(&outcomes),
        ["behind", "behind", "written", "behind", "behind", "behind"]
    );
    assert_eq!(store.written(), [["c"]]);
    assert_eq!(store.waits.into_inner(), 1);
    assert_eq!(store.reads.into_inner(), 0);

    // While it still waits when no write may begin any more, nothing is done.
    let store = FakeStore::failing(LONG_TIMEOUT, Unavailable::Behind);
    let outcomes = store
        .execute(SHORT_TIMEOUT, &batch(&["touch a", "delete b"]))
        .await;
    assert_eq!(names(&outcomes), ["no time"; 2]);
    assert!(store.written().is_empty());
}
