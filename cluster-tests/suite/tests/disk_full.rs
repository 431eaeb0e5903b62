//! Full disks: a node goes on reading and deleting, and takes writes again by itself.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{Region, RegionOptions, StartMode};
use cloudkv_test_harness::{Bucket, HttpResponse, SmallDisk, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Size of each small disk, in MiB.
const DISK_MIB: u64 = 160;
/// Size of each value.
const VALUE_BYTES: usize = 16_000;
/// The low-water mark, in MiB.
const LOW_WATER_MIB: u64 = 64;

/// Starts nodes, of which the first `small` have small disks. `None` where nothing can be mounted.
async fn start(nodes: usize, small: usize) -> Option<(Vec<SmallDisk>, Region)> {
    let args = [
        ("--disk-low-water-mib", LOW_WATER_MIB.to_string()),
        ("--write-buffer-mib", "2".to_owned()),
        ("--log-segment-mib", "1".to_owned()),
    ];
    let mut region = Region::prepare(RegionOptions {
        nodes,
        seats: nodes,
        shards: 2,
        args: args
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
        ..RegionOptions::default()
    });
    region.expect_errors(&["the disk is nearly full"]);
    let mut disks = vec![];
    for seat in 0..small {
        disks.push(SmallDisk::mount(&region.nodes[seat].data_dir(), DISK_MIB)?);
    }
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    for seat in 1..nodes {
        region.launch(seat, &StartMode::Join(vec![0]));
        region.wait_listening(seat).await;
    }
    region.wait_formed().await;
    Some((disks, region))
}

/// Writes values until one is refused; returns the refusal and the number of values written.
async fn fill(region: &Region, seat: usize, bucket: &Bucket) -> (HttpResponse, usize) {
    let (api, value) = (region.api(seat), vec![b'v'; VALUE_BYTES]);
    for number in 0..10_000 {
        let path = bucket.key_path(&format!("k{number}"));
        let put = api.put(&path, value.clone()).await;
        if put.status != 200 {
            return (put, number);
        }
    }
    panic!("the disk doesn't fill up");
}

/// Waits until a node reports this state of its disk.
async fn wait_disk(region: &Region, seat: usize, state: &str) {
    let what = format!("the disk of node {seat} is {state}");
    eventually(&what, STATE_TIMEOUT, async || {
        let call = region.nodes[seat].admin_api().get("/status").unchecked();
        let status = call.try_send().await.ok()?.json();
        (status["disk_state"] == state).then_some(())
    })
    .await;
}

async fn wait_put(region: &Region, seat: usize, bucket: &Bucket, status: u16) -> HttpResponse {
    let what = format!("a PUT through node {seat} is answered {status}");
    let api = region.api(seat);
    eventually(&what, STATE_TIMEOUT, async || {
        let put = api
            .put(&bucket.key_path("probe"), "v")
            .try_send()
            .await
            .ok()?;
        (put.status == status).then_some(put)
    })
    .await
}

#[tokio::test]
async fn a_single_node_whose_disk_fills_up_reads_and_deletes_and_takes_writes_again() {
    let Some((disks, mut region)) = start(1, 1).await else {
        return;
    };
    let bucket = region
        .api(0)
        .create_bucket_with(&[("plan", "business")])
        .await;
    disks[0].fill_until_free(LOW_WATER_MIB + 12);
    let (refused, written) = fill(&region, 0, &bucket).await;
    refused.assert_error(507, "disk_full");
    assert!(refused.text().contains("deleting work"), "{refused:?}");
    assert!(written > 10, "{written}");
    for restarted in [false, true] {
        if restarted {
            // It also starts with little free space.
            region.kill(0);
            region.restart(0).await;
            region.wait_ready(0).await;
        }
        let api = region.api(0);
        let kept = bucket.key_path(&format!("k{}", written - 1));
        assert_eq!(
            api.get(&kept).await.assert_status(200).body.len(),
            VALUE_BYTES
        );
        api.get(&bucket.listing_path()).await.assert_status(200);
        let deleted = bucket.key_path(&format!("k{}", usize::from(restarted)));
        api.delete(&deleted).await.assert_status(200);
        api.get(&deleted).await.assert_status(404);
        let refused = wait_put(&region, 0, &bucket, 507).await;
        refused.assert_error(507, "disk_full");
    }
    let created = region.api(0).post("/buckets").await;
    created.assert_error(507, "disk_full");
    // With most of the reserve used, nothing is written any more, and everything can be read.
    disks[0].fill_until_free(8);
    wait_disk(&region, 0, "exhausted").await;
    let deleted = bucket.key_path("k3");
    let delete = async || region.api(0).delete(&deleted).try_send().await.ok();
    let refused = eventually("a DELETE is refused", STATE_TIMEOUT, async || {
        delete().await.filter(|answer| answer.status == 507)
    });
    let refused = refused.await;
    refused.assert_error(507, "disk_full");
    let advice = "before the operators have freed disk space by other means";
    assert!(refused.text().contains(advice), "{refused:?}");
    region
        .api(0)
        .get(&bucket.key_path("k2"))
        .await
        .assert_status(200);
    disks[0].remove_ballast();
    wait_put(&region, 0, &bucket, 200).await;
    wait_disk(&region, 0, "ample").await;
    region.api(0).delete(&deleted).await.assert_status(200);
    drop(region);
}

#[tokio::test]
async fn nodes_whose_disks_fill_up_hand_over_and_catch_up() {
    let Some((disks, region)) = start(3, 2).await else {
        return;
    };
    let bucket = region
        .api(0)
        .create_bucket_with(&[("plan", "business")])
        .await;
    // One of three: the others lead, and it serves by forwarding to them.
    disks[0].fill_until_free(LOW_WATER_MIB / 2);
    wait_disk(&region, 0, "low").await;
    eventually(
        "the node with little free space leads nothing",
        STATE_TIMEOUT,
        async || {
            let status = region.status(0).await?;
            status.led_groups().next().is_none().then_some(())
        },
    )
    .await;
    let api = region.api(0);
    api.put(&bucket.key_path("k"), "one is low")
        .await
        .assert_status(200);
    // It stops taking entries before its disk is full, and keeps running.
    disks[0].fill_until_free(8);
    wait_disk(&region, 0, "exhausted").await;
    api.put(&bucket.key_path("k"), "one is exhausted")
        .await
        .assert_status(200);
    let get = api.get(&bucket.key_path("k")).await;
    assert_eq!(get.assert_status(200).text(), "one is exhausted");
    disks[0].remove_ballast();
    wait_disk(&region, 0, "ample").await;
    region.wait_converged().await;
    // Two of three: writes that grow are refused, once the third leads for good.
    for disk in &disks {
        disk.fill_until_free(LOW_WATER_MIB / 2);
    }
    for seat in 0..3 {
        let refused = wait_put(&region, seat, &bucket, 507).await;
        refused.assert_error(507, "disk_full");
    }
    let get = api.get(&bucket.key_path("k")).await;
    assert_eq!(get.assert_status(200).text(), "one is exhausted");
    api.delete(&bucket.key_path("k")).await.assert_status(200);
    for disk in &disks {
        disk.remove_ballast();
    }
    for seat in 0..3 {
        wait_put(&region, seat, &bucket, 200).await;
    }
    region.wait_converged().await;
    drop(region);
}
