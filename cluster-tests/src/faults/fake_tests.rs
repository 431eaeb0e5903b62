//! The recording clients and the checks find the defects of defective servers, and none in a
//! correct one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::client::{Client, Shared};
use super::fake::{Break, serve};
use super::ledger::Ledger;
use super::settle::Settler;
use crate::harness::{Bucket, eventually};

/// Enough calls for a server to show its defect many times.
const CALLS: u64 = 6000;

/// Returns the failures that the checks report of a server.
async fn failures(defect: Break) -> Vec<String> {
    let address = serve(defect).await;
    let shared = Arc::new(Shared {
        ledger: Ledger::new(),
        bucket: Bucket {
            id: "fake".into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        },
        nodes: vec![address],
        values: AtomicU64::new(0),
        pace: 0..0,
        stop: AtomicBool::new(false),
    });
    let clients = (0..8).map(|number| tokio::spawn(Client::new(&shared, number, 0, 1).run()));
    let clients: Vec<_> = clients.collect();
    eventually("there was load", Duration::from_secs(60), async || {
        (shared.ledger.tally.answered() >= CALLS).then_some(())
    })
    .await;
    shared.stop.store(true, Ordering::Relaxed);
    join_all(clients).await;
    let dir = tempfile::tempdir().unwrap();
    let mut settler = Settler::new(&shared, dir.path().to_owned(), None);
    settler.finish().await;
    assert_eq!(shared.ledger.odd_answers(), Vec::<String>::new());
    settler.failures
}

#[tokio::test]
async fn a_correct_server_passes() {
    assert_eq!(failures(Break::No).await, Vec::<String>::new());
}

#[tokio::test]
async fn defective_servers_are_detected() {
    for defect in [
        Break::OldReads,
        Break::LostWrites,
        Break::ForgottenConditions,
        Break::RepeatedWrites,
        Break::FalseRefusals,
    ] {
        let failures = failures(defect).await;
        assert!(!failures.is_empty(), "{defect:?}");
    }
}
