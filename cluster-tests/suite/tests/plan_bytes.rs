//! A plan's limit on the bytes of a bucket: no write is refused below it, and it is exceeded by
//! little.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_test_harness::region::Region;
use cloudkv_test_harness::{Node, eventually};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

/// Size of a value, in bytes.
const VALUE_BYTES: usize = 4000;
/// Size of a key, in bytes.
const KEY_BYTES: usize = 6;
/// Size of a key with its value.
const RECORD_BYTES: u64 = (VALUE_BYTES + KEY_BYTES) as u64;
const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Changes the limits of plan `free`; retries until the metadata has a leader.
async fn set_limits(node: &Node, changes: &Value) {
    eventually("the limits are changed", STATE_TIMEOUT, async || {
        let call = node.admin_api().request(Method::PATCH, "/plans/free");
        let answer = call.json(changes).unchecked().await;
        match answer.status {
            200 => Some(()),
            503 => None,
            other => panic!("{other}: {answer:?}"),
        }
    })
    .await;
}

fn key(number: usize) -> String {
    format!("k{number:05}")
}

#[tokio::test]
async fn a_bucket_takes_what_fits_and_refuses_what_does_not() {
    let node = Node::start().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let bytes = 100 * RECORD_BYTES + 10;
    set_limits(&node, &json!({ "bytes": bytes })).await;
    let value = "v".repeat(VALUE_BYTES);
    for number in 0..100 {
        let put = api.put(&bucket.key_path(&key(number)), value.clone()).await;
        put.assert_status(200);
    }
    let full = api.put(&bucket.key_path("k99999"), value.clone()).await;
    full.assert_error(403, "plan_limit");
    assert!(full.text().contains(&bytes.to_string()), "{full:?}");
    // The limit is exact to the byte.
    api.put(&bucket.key_path("small"), "12345")
        .await
        .assert_status(200);
    api.put(&bucket.key_path("x"), "")
        .await
        .assert_error(403, "plan_limit");

    // A write that replaces as many bytes always fits; deleted and expired records don't count.
    api.put(&bucket.key_path(&key(0)), value.clone())
        .await
        .assert_status(200);
    let larger = api
        .put(&bucket.key_path(&key(0)), value.clone() + "v")
        .await;
    larger.assert_error(403, "plan_limit");
    api.delete(&bucket.key_path(&key(1)))
        .await
        .assert_status(200);
    let expiring = format!("{}?ttl=1s", bucket.key_path(&key(2)));
    api.put(&expiring, value.clone()).await.assert_status(200);
    api.put(&bucket.key_path(&key(100)), value.clone())
        .await
        .assert_status(200);
    eventually(
        "the expired value's bytes are free",
        STATE_TIMEOUT,
        async || {
            let put = api
                .put(&bucket.key_path(&key(101)), value.clone())
                .unchecked()
                .await;
            (put.status == 200).then_some(())
        },
    )
    .await;

    // A change to a plan with a lower limit is refused; without a limit everything fits.
    let call = node.admin_api().request(Method::PATCH, "/plans/pro");
    let lower = call.json(&json!({ "bytes": 1000 })).unchecked().await;
    lower.assert_status(200);
    let change = api.patch(&bucket.path()).api_key(&bucket.account);
    let change = change.query(&[("plan", "pro")]).await;
    change.assert_error(409, "exceeds_plan");
    set_limits(&node, &json!({ "bytes": 0 })).await;
    api.put(&bucket.key_path("k99999"), value)
        .await
        .assert_status(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_keeps_the_limit_within_its_tolerance_under_parallel_load() {
    let region = Region::start().await;
    let bytes = 700 * RECORD_BYTES;
    let flag = format!("--bytes={bytes}");
    region
        .admin_with_retries(0, &["plan", "set", "free", &flag])
        .await;
    region.wait_leaders_balanced().await;
    let bucket = region.api(0).create_bucket().await;
    let written = AtomicU64::new(0);
    let value = "v".repeat(VALUE_BYTES);
    let writers = (0..12_usize).map(async |writer| {
        for number in 0.. {
            let path = bucket.key_path(&key(writer * 1000 + number));
            let is_written = eventually("an answer to a PUT", STATE_TIMEOUT, async || {
                let put = region.api(writer % 3).put(&path, value.clone());
                let answer = put.try_send().await.ok()?;
                match answer.status {
                    200 => Some(true),
                    403 => Some(false),
                    503 | 504 => None,
                    other => panic!("{other}: {answer:?}"),
                }
            });
            if !is_written.await {
                return;
            }
            written.fetch_add(RECORD_BYTES, Ordering::Relaxed);
        }
    });
    join_all(writers).await;
    let written = written.into_inner();
    assert!(
        written > bytes - RECORD_BYTES,
        "refused at {written} of {bytes}"
    );
    // A quota lease for each shard, and each writer's request in flight.
    let tolerance = u64::from(region.shards()) * (64 << 10) + 12 * RECORD_BYTES;
    assert!(written <= bytes + tolerance, "{written} of {bytes}");
}
