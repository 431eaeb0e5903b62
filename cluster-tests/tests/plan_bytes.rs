//! A plan's limit on the bytes of a bucket: nobody is refused below it, and it is exceeded by
//! little.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_cluster_tests::region::Region;
use cloudkv_cluster_tests::{Node, eventually};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

/// Size of a value, in bytes.
const VALUE: usize = 4000;
/// Size of a key, in bytes.
const KEY: usize = 6;
/// Size of a key with its value.
const RECORD: u64 = (VALUE + KEY) as u64;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Changes the limits of plan `free`; repeated until the metadata has the level that they need.
async fn limit(node: &Node, changes: &Value) {
    eventually("the limits are changed", TIMEOUT, async || {
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
    let bucket = api.bucket().await;
    let bytes = 100 * RECORD + 10;
    limit(&node, &json!({ "bytes": bytes })).await;
    let value = "v".repeat(VALUE);
    for number in 0..100 {
        let put = api.put(&bucket.key(&key(number)), value.clone()).await;
        put.status(200);
    }
    let full = api.put(&bucket.key("k99999"), value.clone()).await;
    full.error(403, "plan_limit");
    assert!(full.text().contains(&bytes.to_string()), "{full:?}");
    // To the byte.
    api.put(&bucket.key("small"), "12345").await.status(200);
    api.put(&bucket.key("x"), "").await.error(403, "plan_limit");

    // What replaces as much as it brings always fits; what is deleted or has expired doesn't count.
    api.put(&bucket.key(&key(0)), value.clone())
        .await
        .status(200);
    let larger = api.put(&bucket.key(&key(0)), value.clone() + "v").await;
    larger.error(403, "plan_limit");
    api.delete(&bucket.key(&key(1))).await.status(200);
    let brief = format!("{}?ttl=1s", bucket.key(&key(2)));
    api.put(&brief, value.clone()).await.status(200);
    api.put(&bucket.key(&key(100)), value.clone())
        .await
        .status(200);
    eventually("the expired value's bytes are free", TIMEOUT, async || {
        let put = api
            .put(&bucket.key(&key(101)), value.clone())
            .unchecked()
            .await;
        (put.status == 200).then_some(())
    })
    .await;

    // A plan with a lower limit doesn't take it; without a limit all fits.
    let call = node.admin_api().request(Method::PATCH, "/plans/pro");
    let lower = call.json(&json!({ "bytes": 1000 })).unchecked().await;
    lower.status(200);
    let change = api.patch(&bucket.path()).api_key(&bucket.account);
    let change = change.query(&[("plan", "pro")]).await;
    change.error(409, "exceeds_plan");
    limit(&node, &json!({ "bytes": 0 })).await;
    api.put(&bucket.key("k99999"), value).await.status(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_keeps_the_limit_within_its_tolerance_under_parallel_load() {
    let region = Region::start().await;
    let bytes = 700 * RECORD;
    let flag = format!("--bytes={bytes}");
    region.insist(0, &["plan", "set", "free", &flag]).await;
    region.wait_spread().await;
    let bucket = region.api(0).bucket().await;
    let written = AtomicU64::new(0);
    let value = "v".repeat(VALUE);
    let writers = (0..12_usize).map(async |writer| {
        for number in 0.. {
            let path = bucket.key(&key(writer * 1000 + number));
            let done = eventually("an answer to a PUT", TIMEOUT, async || {
                let put = region.api(writer % 3).put(&path, value.clone());
                let answer = put.try_send().await.ok()?;
                match answer.status {
                    200 => Some(true),
                    403 => Some(false),
                    503 | 504 => None,
                    other => panic!("{other}: {answer:?}"),
                }
            });
            if !done.await {
                return;
            }
            written.fetch_add(RECORD, Ordering::Relaxed);
        }
    });
    join_all(writers).await;
    let written = written.into_inner();
    assert!(written > bytes - RECORD, "refused at {written} of {bytes}");
    // A block for each shard, and what each writer had under way.
    let tolerance = u64::from(region.shards()) * (64 << 10) + 12 * RECORD;
    assert!(written <= bytes + tolerance, "{written} of {bytes}");
}
