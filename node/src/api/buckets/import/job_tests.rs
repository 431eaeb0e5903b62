//! Whole imports into a store that does what a test wants.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::reader::BodyLines;
use super::*;
use crate::api::http::receive::StreamBounds;
use crate::service::{Expiry, KeyError, Version, WriteReceipt};

const RULES: LineRules = LineRules {
    key_bytes: 64,
    value_bytes: 64,
    default_expiry: Expiry::Never,
    mode: ImportMode::Overwrite,
    now: 1_000_000_000,
};

/// A store that takes all writes, and keeps the keys of each batch.
#[derive(Clone, Default)]
struct TestStore {
    batches: Arc<Mutex<Vec<Vec<String>>>>,
    /// If set, the first batch waits for it.
    gate: Option<Arc<Notify>>,
    /// If set, it is cancelled by the first batch.
    stop: Option<CancellationToken>,
    is_deleted: bool,
}

impl ImportStore for TestStore {
    async fn execute(&self, operations: Vec<BatchOperation>) -> Vec<BatchOutcome> {
        let key = |operation: &BatchOperation| match operation {
            BatchOperation::Write { key, .. } => String::from_utf8(key.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        let keys: Vec<String> = operations.iter().map(key).collect();
        let count = keys.len();
        let is_first = self.batches.lock().is_empty();
        self.batches.lock().push(keys);
        if let Some(gate) = self.gate.as_ref().filter(|_| is_first) {
            gate.notified().await;
        }
        if let Some(stop) = &self.stop {
            stop.cancel();
            tokio::task::yield_now().await;
        }
        let outcome = || {
            if self.is_deleted {
                return BatchOutcome::Failed(KeyError::BucketDeleted);
            }
            BatchOutcome::Written(WriteReceipt {
                version: Version::default(),
                existed: false,
                expires_at: None,
            })
        };
        std::iter::repeat_with(outcome).take(count).collect()
    }
}

fn put(key: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":\"v\"}}\n")
}

/// Runs an import, and returns its last line and the numbers of keys that were published.
async fn run(
    store: TestStore,
    body: Body,
    rules: impl Fn() -> Option<LineRules>,
    stop: &CancellationToken,
) -> (Option<Value>, Vec<u64>) {
    let bounds = StreamBounds {
        chunk_timeout: Duration::from_secs(60),
        min_rate: 0,
    };
    let published = Mutex::new(Vec::new());
    let mut run = ImportRun {
        executor: Executor::new(store, ImportMode::Overwrite, RetryPolicy::default()),
        reader: BatchReader::new(BodyLines::new(body, bounds)),
        totals: Totals::default(),
        publish: |totals: &Totals, imported, _: &[LineFailure]| {
            published.lock().push((totals.lines, imported));
        },
    };
    let line = match run.run(rules, stop).await {
        ImportEnd::Complete => Some(run.totals.end_line(None)),
        ImportEnd::Failed(error) => Some(run.totals.end_line(Some(error))),
        ImportEnd::Stopped => None,
    };
    drop(run);
    let published = published.into_inner();
    let line = line.map(|line| serde_json::from_slice(&line).unwrap());
    (line, published.into_iter().map(|(_, keys)| keys).collect())
}

async fn run_all(store: TestStore, body: impl Into<Body>) -> (Option<Value>, Vec<u64>) {
    run(
        store,
        body.into(),
        || Some(RULES),
        &CancellationToken::new(),
    )
    .await
}

#[tokio::test]
async fn batches_are_executed_in_their_order() {
    let store = TestStore::default();
    let body = put("a") + "x\n" + &put("b") + &put("a") + &put("c");
    let (end, published) = run_all(store.clone(), body).await;
    let end = end.unwrap();
    assert_eq!(end["end"], true);
    assert_eq!((&end["imported"], &end["failed"]), (&json!(4), &json!(1)));
    assert_eq!(end["errors"][0]["line"], 2);
    assert_eq!(published.iter().sum::<u64>(), 4);
    assert_eq!(*store.batches.lock(), [vec!["a", "b"], vec!["a", "c"]]);
}

#[tokio::test]
async fn an_empty_body_is_a_whole_import() {
    let (end, _) = run_all(TestStore::default(), "").await;
    let expected = json!({"end": true, "imported": 0, "skipped": 0, "failed": 0, "errors": []});
    assert_eq!(end, Some(expected));
}

#[tokio::test]
async fn the_next_batch_is_read_while_one_is_executed() {
    let gate = Arc::new(Notify::new());
    let store = TestStore {
        gate: Some(gate.clone()),
        ..TestStore::default()
    };
    // The second chunk is asked for only while the first batch waits for it.
    let chunks = stream::unfold(0, move |number| {
        let gate = gate.clone();
        async move {
            let chunk = match number {
                0 => put("a") + &put("a"),
                1 => {
                    gate.notify_one();
                    put("b")
                }
                _ => return None,
            };
            Some((Ok::<_, Infallible>(Bytes::from(chunk)), number + 1))
        }
    });
    let import = run_all(store, Body::from_stream(chunks));
    let limit = Duration::from_secs(60);
    let (end, _) = tokio::time::timeout(limit, import).await.unwrap();
    assert_eq!(end.unwrap()["imported"], 3);
}

/// Waits until something is published.
async fn published(progress: &Mutex<Vec<u64>>) {
    while progress.lock().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_batch_is_published_before_the_next_one_is_read() {
    let progress = Arc::new(Mutex::new(Vec::new()));
    let seen = progress.clone();
    // The client sends more only when it has been told of what it has sent.
    let chunks = stream::unfold(0, move |number| {
        let seen = seen.clone();
        async move {
            let chunk = match number {
                0 => put("a") + &put("a"),
                1 => {
                    published(&seen).await;
                    put("b")
                }
                _ => return None,
            };
            Some((Ok::<_, Infallible>(Bytes::from(chunk)), number + 1))
        }
    });
    let bounds = StreamBounds {
        chunk_timeout: Duration::from_secs(60),
        min_rate: 0,
    };
    let body = Body::from_stream(chunks);
    let mut run = ImportRun {
        executor: Executor::new(
            TestStore::default(),
            ImportMode::Overwrite,
            RetryPolicy::default(),
        ),
        reader: BatchReader::new(BodyLines::new(body, bounds)),
        totals: Totals::default(),
        publish: |_: &Totals, imported, _: &[LineFailure]| progress.lock().push(imported),
    };
    let stop = CancellationToken::new();
    let limit = Duration::from_secs(60);
    let ran = tokio::time::timeout(limit, run.run(|| Some(RULES), &stop)).await;
    assert!(matches!(ran, Ok(ImportEnd::Complete)), "{ran:?}");
}

#[tokio::test]
async fn a_fatal_error_does_not_wait_for_the_client() {
    let store = TestStore {
        is_deleted: true,
        ..TestStore::default()
    };
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from(put("a") + &put("a")))]);
    let body = Body::from_stream(first.chain(stream::pending()));
    let limit = Duration::from_secs(60);
    let (end, _) = tokio::time::timeout(limit, run_all(store, body))
        .await
        .unwrap();
    assert_eq!(end.unwrap()["error"], "unknown_bucket");
}

#[tokio::test]
async fn an_import_ends_after_its_batch_when_the_client_is_gone() {
    let stop = CancellationToken::new();
    let store = TestStore {
        stop: Some(stop.clone()),
        ..TestStore::default()
    };
    let body = Body::from(put("a") + &put("a"));
    let (end, published) = run(store.clone(), body, || Some(RULES), &stop).await;
    assert_eq!(end, None);
    assert_eq!(published.iter().sum::<u64>(), 1);
    assert_eq!(*store.batches.lock(), [vec!["a"]]);
}

#[tokio::test]
async fn an_import_ends_when_its_bucket_is_deleted() {
    let store = TestStore {
        is_deleted: true,
        ..TestStore::default()
    };
    let (end, _) = run_all(store, put("a") + &put("a")).await;
    let end = end.unwrap();
    assert_eq!(end["error"], "unknown_bucket");
    assert_eq!((&end["lines"], &end["failed"]), (&json!(1), &json!(1)));
    // It is noticed, too, when this node learns of it between two batches.
    let (store, calls) = (TestStore::default(), AtomicUsize::new(0));
    let rules = || (calls.fetch_add(1, Ordering::Relaxed) < 2).then_some(RULES);
    let body = Body::from(put("a") + &put("a"));
    let (end, _) = run(store.clone(), body, rules, &CancellationToken::new()).await;
    assert_eq!(end.unwrap()["error"], "unknown_bucket");
    assert_eq!(*store.batches.lock(), [vec!["a"]]);
}

#[tokio::test]
async fn a_broken_body_ends_the_import_after_its_last_line() {
    let reset = std::io::Error::other("reset");
    let chunks = stream::iter([Ok(Bytes::from(put("a"))), Err(reset)]);
    let (end, _) = run_all(TestStore::default(), Body::from_stream(chunks)).await;
    let end = end.unwrap();
    assert_eq!(end["error"], "invalid_body");
    assert_eq!((&end["lines"], &end["imported"]), (&json!(1), &json!(1)));
}
