//! The recording clients and the checks find the defects of defective servers, and none in a
//! correct one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::fake_server::{BUCKET, serve};
use super::fake_store::Defect;
use super::history::History;
use super::history_checker::HistoryChecker;
use super::recording_client::ClientContext;
use super::workload_client::WorkloadClient;
use cloudkv_test_harness::{Bucket, eventually};

/// Enough calls for a server to show its defect many times.
const CALL_COUNT: u64 = 6000;

/// Returns the failures that the checks report of a server.
async fn check_server(defect: Defect) -> Vec<String> {
    let address = serve(defect).await;
    let shared = Arc::new(ClientContext {
        history: History::new(),
        bucket: Bucket {
            id: BUCKET.into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        },
        nodes: vec![address],
        last_write: AtomicU64::new(0),
        think_time_ms: 0..0,
        has_new_calls: AtomicBool::new(true),
        stop: AtomicBool::new(false),
    });
    let clients =
        (0..8).map(|number| tokio::spawn(WorkloadClient::new(&shared, number, 0, 1).run()));
    let clients: Vec<_> = clients.collect();
    eventually("there was load", Duration::from_secs(60), async || {
        (shared.history.counts.answered() >= CALL_COUNT).then_some(())
    })
    .await;
    shared.stop.store(true, Ordering::Relaxed);
    join_all(clients).await;
    let dir = tempfile::tempdir().unwrap();
    let mut settler = HistoryChecker::new(&shared, dir.path().to_owned(), None);
    settler.finish().await;
    assert_eq!(shared.history.anomalies(), Vec::<String>::new());
    settler.failures
}

#[tokio::test]
async fn a_correct_server_passes() {
    assert_eq!(check_server(Defect::Healthy).await, Vec::<String>::new());
}

#[tokio::test]
async fn defective_servers_are_detected() {
    for defect in [
        Defect::StaleReads,
        Defect::LostWrites,
        Defect::IgnoredConditions,
        Defect::RepeatedWrites,
        Defect::FalseRefusals,
        Defect::LostBatchLines,
        Defect::ReorderedBatches,
        Defect::TornTouches,
        Defect::IncompleteLists,
    ] {
        let failures = check_server(defect).await;
        assert!(!failures.is_empty(), "{defect:?}");
    }
}
