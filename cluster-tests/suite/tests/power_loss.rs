//! Acknowledged writes survive a power loss of the node that acknowledged them, of a majority, and
//! of all nodes. And nodes whose disks fail or are slow.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_faults::{
    DiskFailure, FailingCalls, PowerLoss, PowerLossPlan, PowerOptions, run_power,
};
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::power::{Area, Disk, DiskFaults};
use cloudkv_test_harness::region::{Region, RegionOptions};

/// Delay of a sync that ends only when it is aborted or the fault is removed: longer than any test.
const ENDLESS_DELAY: Duration = Duration::from_secs(24 * 3600);
/// Bound on a state change on a busy machine.
const STATE_TIMEOUT: Duration = Duration::from_secs(60);

const SLOW_LOG: DiskFaults = DiskFaults {
    reads_fail: Area::Nowhere,
    writes_fail: Area::Nowhere,
    syncs_fail: Area::Nowhere,
    is_full: Area::Nowhere,
    slow_syncs: Area::Log,
    sync_delay: ENDLESS_DELAY,
    failed_calls: None,
    seed: 0,
};

async fn assert_passes(seed: u64, cuts: Vec<PowerLoss>) {
    if !Disk::is_supported() {
        return;
    }
    let mut options = PowerOptions::new(seed, 0, 3);
    options.run.clients_per_node = 2;
    options.run.region.shards = 4;
    options.power_losses = cuts;
    let report = run_power(&options).await;
    println!("{report}");
    assert!(report.has_passed(), "{report}");
    assert!(report.checked_calls > 100, "too little load: {report}");
}

/// Returns, for each of `counts`, the first cut of this seed in which as many nodes lose power.
fn first_cuts(seed: u64, counts: &[usize]) -> Vec<PowerLoss> {
    let first = |count: &usize| {
        let mut plan = PowerLossPlan::new(seed, 3);
        std::iter::from_fn(|| Some(plan.next_power_loss())).find(|cut| cut.seats.len() == *count)
    };
    counts.iter().filter_map(first).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_losses_of_one_two_and_all_nodes_lose_nothing_acknowledged() {
    assert_passes(1, first_cuts(1, &[3, 1, 2])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_lose_nothing_and_stop_no_node() {
    let mut plan = PowerLossPlan::new(2, 3);
    let slow = |slow_nodes: Vec<usize>, plan: &mut PowerLossPlan| PowerLoss {
        slow_nodes,
        slow_area: Area::Everywhere,
        sync_delay: Duration::from_millis(1500),
        load_duration: Duration::from_secs(4),
        killed_first: None,
        failure: None,
        seats: vec![],
        ..plan.next_power_loss()
    };
    let cuts = vec![slow(vec![0], &mut plan), slow(vec![1, 2], &mut plan)];
    assert_passes(2, cuts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_disks_lose_nothing_and_the_other_nodes_go_on() {
    let mut plan = PowerLossPlan::new(3, 3);
    let failing = |(seat, (calls, area))| PowerLoss {
        slow_nodes: vec![],
        load_duration: Duration::from_millis(300),
        killed_first: None,
        failure: Some(DiskFailure {
            seats: vec![seat % 3],
            calls,
            area,
            failed_calls: Some(2),
            duration: Duration::from_millis(1500),
            restarts_before_loss: true,
            evicts_pages: false,
            delay_after_start: Duration::from_millis(500),
            seed: 3,
        }),
        seats: vec![seat % 3],
        last_start_delay: Duration::ZERO,
        waits_until_healthy: true,
        ..plan.next_power_loss()
    };
    let failures = [
        (FailingCalls::Syncs, Area::Log),
        (FailingCalls::Syncs, Area::State),
        (FailingCalls::Reads, Area::State),
        (FailingCalls::Writes, Area::Everywhere),
        (FailingCalls::Full, Area::Everywhere),
    ];
    let cuts = failures.into_iter().enumerate().map(failing).collect();
    assert_passes(3, cuts).await;
}

async fn start_region(nodes: usize) -> Region {
    let options = RegionOptions {
        nodes,
        seats: nodes,
        shards: 1,
        has_power_loss: true,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// A follower has written an entry, and is killed before it has synced it. The next start reads the
/// entry from the log; if it acknowledges the entry then, that must be durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_acknowledged_by_a_restarted_follower_survive_a_power_loss() {
    if !Disk::is_supported() {
        return;
    }
    let mut region = start_region(3).await;
    let leader = region.wait_leader("shard-0").await;
    let bucket = region.api(leader).create_bucket().await;
    region.wait_converged().await;
    let followers: Vec<usize> = (0..3).filter(|seat| *seat != leader).collect();
    for seat in &followers {
        region.nodes[*seat].disk().set_faults(SLOW_LOG);
    }
    // The answer doesn't matter: a value that was read once must be read again.
    let (api, path) = (region.api(leader), bucket.key_path("k"));
    let put = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { api.put(&path, "v").unchecked().try_send().await.is_ok() }
    });
    let is_read = async || {
        let answer = api.get(&path).unchecked().try_send().await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    for seat in &followers {
        let disk = region.nodes[*seat].disk();
        let what = format!("node {seat} has written the entry");
        eventually(&what, STATE_TIMEOUT, async || {
            disk.is_syncing().then_some(())
        })
        .await;
    }
    let killed = followers[0];
    region.kill(killed);
    region.nodes[killed].start();
    region.network.set_listening(killed, true);
    let disk = region.nodes[killed].disk();
    eventually(
        "the write is committed, or synced",
        STATE_TIMEOUT,
        async || (is_read().await || disk.is_syncing()).then_some(()),
    )
    .await;
    disk.set_faults(DiskFaults::default());
    eventually("the write is committed", STATE_TIMEOUT, async || {
        is_read().await.then_some(())
    })
    .await;
    // Only the leader keeps it for certain, and it is started last.
    region.power_off(&[0, 1, 2]);
    for member in &region.nodes {
        member.disk().set_faults(DiskFaults::default());
        member.disk().power_on_losing_all().expect("cut the power");
    }
    for seat in &followers {
        region.nodes[*seat].start();
    }
    for seat in &followers {
        region.wait_listening(*seat).await;
    }
    put.abort();
    let api = region.api(killed);
    let answer = eventually("the key is read", STATE_TIMEOUT, async || {
        let answer = api.get(&path).unchecked().try_send().await.ok()?;
        (answer.status != 503).then_some(answer)
    });
    let answer = answer.await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, "v"),
        "an acknowledged write is lost"
    );
    region.restart(leader).await;
    region.wait_formed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_cannot_be_synced_exits_and_logs_why() {
    if !Disk::is_supported() {
        return;
    }
    let mut region = start_region(1).await;
    region.expect_errors(&["os error 5"]);
    let bucket = region.api(0).create_bucket().await;
    region
        .api(0)
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    region.nodes[0].disk().set_faults(DiskFaults {
        syncs_fail: Area::Log,
        ..DiskFaults::default()
    });
    let put = region.api(0).put(&bucket.key_path("k"), "w").unchecked();
    let put = put.try_send().await;
    // The write is not acknowledged, with or without an answer.
    assert!(put.is_err() || put.is_ok_and(|answer| answer.status >= 500));
    let status = region.wait_exit(0).await;
    assert_eq!(status.code(), Some(1), "{status}");
    let errors = region.nodes[0].log().errors().join("\n");
    assert!(errors.contains("os error 5"), "{errors}");
    // With the disk repaired and all unsynced data lost, the node has what it acknowledged.
    region.nodes[0]
        .disk()
        .power_on_losing_all()
        .expect("cut the power");
    region.nodes[0].disk().set_faults(DiskFaults::default());
    region.restart(0).await;
    region.wait_formed().await;
    let get = region.api(0).get(&bucket.key_path("k")).await;
    assert_eq!(get.assert_status(200).text(), "v");
}

/// The sync of an entry fails, the node exits, and restarts without a power loss: it reads the
/// entry from the kernel's page cache, which no later sync writes to the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_read_after_a_failed_sync_are_durable_before_they_are_acknowledged() {
    if !Disk::is_supported() {
        return;
    }
    for evicts in [false, true] {
        let mut region = start_region(1).await;
        region.expect_errors(&["os error 5"]);
        let bucket = region
            .api(0)
            .create_bucket_with(&[("plan", "business")])
            .await;
        let path = bucket.key_path("k");
        region.api(0).put(&path, "v").await.assert_status(200);
        // It fills whole blocks, which no later entry writes again.
        let large = "w".repeat(16_000);
        region.nodes[0].disk().set_faults(DiskFaults {
            syncs_fail: Area::Log,
            failed_calls: Some(1),
            ..DiskFaults::default()
        });
        let put = region.api(0).put(&path, large).unchecked().try_send().await;
        let put = put.map_or(503, |answer| answer.status);
        assert!(put >= 500, "{put}");
        assert_eq!(region.wait_exit(0).await.code(), Some(1));
        if evicts {
            region.nodes[0].disk().evict().expect("evict pages");
        }
        region.restart(0).await;
        region.wait_formed().await;
        let body = region
            .api(0)
            .get(&path)
            .await
            .assert_status(200)
            .body
            .clone();
        assert_eq!(body.len(), if evicts { 1 } else { 16_000 });
        region.power_off(&[0]);
        region.nodes[0]
            .disk()
            .power_on_losing_all()
            .expect("cut the power");
        region.restart(0).await;
        region.wait_formed().await;
        let get = region.api(0).get(&path).await;
        assert!(get.assert_status(200).body == body, "evicted: {evicts}");
    }
}
