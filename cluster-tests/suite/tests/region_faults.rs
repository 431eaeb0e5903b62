//! Short runs of the program behind `make faults`, each with a fixed seed and some of the kinds of
//! faults, so that together they cover all kinds in every run of the tests.

use std::time::Duration;

use cloudkv_faults::{FaultKind, NetworkFault, RunOptions, run};

async fn assert_passes(seed: u64, kinds: &[FaultKind]) {
    assert_passes_with(seed, kinds, 3).await;
}

async fn assert_passes_with(seed: u64, kinds: &[FaultKind], nodes: usize) {
    let mut options = RunOptions::new(seed, Duration::from_secs(18));
    options.kinds = kinds.to_vec();
    options.clients_per_node = 3;
    options.region.nodes = nodes;
    let report = run(&options).await;
    println!("{report}");
    assert!(report.has_passed(), "{report}");
    assert!(report.checked_calls > 500, "too little load: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_crash_and_stall_lose_nothing() {
    assert_passes(
        1,
        &[
            FaultKind::Kill,
            FaultKind::Pause,
            FaultKind::Restart,
            FaultKind::KillAll,
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_partitions_and_delays_lose_nothing() {
    let faults = [
        NetworkFault::Isolate,
        NetworkFault::OneWay,
        NetworkFault::Bridge,
        NetworkFault::Refuse,
        NetworkFault::Delay,
        NetworkFault::Loss,
    ];
    let kinds = faults.map(FaultKind::Network);
    assert_passes(2, &kinds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_disks_and_wrong_clocks_lose_nothing() {
    assert_passes(3, &[FaultKind::Wipe, FaultKind::ClockJump, FaultKind::Kill]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_take_long_and_break_lose_nothing() {
    assert_passes(5, &[FaultKind::SlowSnapshot]).await;
}

/// A region of two nodes has one voter a shard: each membership change moves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_leave_and_come_back_show_nothing_stale() {
    assert_passes_with(4, &[FaultKind::MembershipChange], 2).await;
}
