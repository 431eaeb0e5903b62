//! The limit on keys of a bucket: never exceeded on one node, and never enforced below.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, Bucket, HttpResponse, SharedNode};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

static NODE: SharedNode = SharedNode::new();

/// Maximum number of keys of a free bucket.
const KEY_LIMIT: usize = 10_000;
const WRITERS: usize = 64;

/// Writes keys `k<number>`, [`WRITERS`] at a time; returns the answers in any order.
async fn write_keys(
    api: &ApiClient,
    bucket: &Bucket,
    numbers: std::ops::Range<usize>,
) -> Vec<HttpResponse> {
    let puts = numbers.map(|number| {
        api.put(&bucket.key_path(&format!("k{number}")), "v")
            .into_future()
    });
    stream::iter(puts).buffer_unordered(WRITERS).collect().await
}

async fn count(api: &ApiClient, bucket: &Bucket) -> usize {
    let (mut total, mut after) = (0, String::new());
    loop {
        let page = api
            .get(&format!("{}?after={after}", bucket.listing_path()))
            .await;
        if page.status == 404 {
            return total;
        }
        let page = page.assert_status(200).lines();
        total += page.len();
        after = page.last().expect("a page has keys").clone();
    }
}

async fn change_plan(api: &ApiClient, bucket: &Bucket, plan: &str) -> HttpResponse {
    api.patch(&bucket.path())
        .api_key(&bucket.account)
        .query(&[("plan", plan)])
        .await
}

/// One bucket is used for all steps, since filling it takes the longest.
#[tokio::test]
async fn a_free_bucket_holds_exactly_its_10_000_keys() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let answers = write_keys(&api, &bucket, 0..KEY_LIMIT - 100).await;
    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "no refusal below the limit"
    );

    // A race for the last 100 keys of the quota.
    let answers = write_keys(&api, &bucket, KEY_LIMIT..KEY_LIMIT + 300).await;
    let (written, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    assert_eq!(written.len(), 100, "the quota is used up, and not exceeded");
    refused.iter().for_each(|answer| {
        answer.assert_error(403, "plan_limit");
    });
    assert_eq!(count(&api, &bucket).await, KEY_LIMIT);

    full_buckets_take_overwrites_and_deletes(&api, &bucket).await;
    freed_quota_can_be_used_again(&api, &bucket).await;
    assert_eq!(count(&api, &bucket).await, KEY_LIMIT);

    a_larger_plan_takes_more_and_a_downgrade_is_refused(&api, &bucket).await;
}

async fn full_buckets_take_overwrites_and_deletes(api: &ApiClient, bucket: &Bucket) {
    let new = || api.put(&bucket.key_path("new"), "v").into_future();
    new().await.assert_error(403, "plan_limit");
    api.get(&bucket.key_path("new"))
        .await
        .assert_error(404, "not_found");
    api.put(&bucket.key_path("k1"), "overwritten")
        .await
        .assert_status(200);
    assert_eq!(api.get(&bucket.key_path("k1")).await.text(), "overwritten");
    api.delete(&bucket.key_path("k2")).await.assert_status(200);
    new().await.assert_status(200);
    api.put(&bucket.key_path("k2"), "v")
        .await
        .assert_error(403, "plan_limit");
    api.delete(&bucket.key_path("new")).await.assert_status(200);
    api.put(&bucket.key_path("k2"), "v")
        .await
        .assert_status(200);
}

/// A delete frees quota for another key at once, whichever shards the two keys are in.
async fn freed_quota_can_be_used_again(api: &ApiClient, bucket: &Bucket) {
    let writers = (0..WRITERS).map(|writer| async move {
        for round in 0..4 {
            let number = writer * 10 + round;
            api.delete(&bucket.key_path(&format!("k{number}")))
                .await
                .assert_status(200);
            api.put(&bucket.key_path(&format!("other{number}")), "v")
                .await
                .assert_status(200);
        }
    });
    join_all(writers).await;
}

async fn a_larger_plan_takes_more_and_a_downgrade_is_refused(api: &ApiClient, bucket: &Bucket) {
    change_plan(api, bucket, "pro").await.assert_status(200);
    api.put(&bucket.key_path("one-more"), "v")
        .await
        .assert_status(200);
    change_plan(api, bucket, "free")
        .await
        .assert_error(409, "exceeds_plan");
    assert_eq!(api.bucket_summary(bucket).await["plan"], "pro");
    api.delete(&bucket.key_path("one-more"))
        .await
        .assert_status(200);
    change_plan(api, bucket, "free").await.assert_status(200);
    api.put(&bucket.key_path("one-more"), "v")
        .await
        .assert_error(403, "plan_limit");
}

#[tokio::test]
async fn an_expired_key_frees_quota() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("passing?ttl=3600"), "v")
        .await
        .assert_status(200);
    let answers = write_keys(&api, &bucket, 0..KEY_LIMIT - 1).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    api.put(&bucket.key_path("new"), "v")
        .await
        .assert_error(403, "plan_limit");
    api.put(&bucket.key_path("passing?ttl=1"), "v")
        .await
        .assert_status(200);
    let timeout = std::time::Duration::from_secs(30);
    cloudkv_test_harness::eventually("the expired key's quota is free", timeout, async || {
        let answer = api.put(&bucket.key_path("new"), "v").await;
        (answer.status == 200).then_some(())
    })
    .await;
    api.put(&bucket.key_path("newer"), "v")
        .await
        .assert_error(403, "plan_limit");
}
