//! How many keys a bucket may hold: never more than its plan says, and never refused below.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_cluster_tests::{Answer, Api, Bucket, SharedNode};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

static NODE: SharedNode = SharedNode::new();

/// Keys that a free bucket may hold.
const LIMIT: usize = 10_000;
const WRITERS: usize = 64;

/// Writes keys `k<number>`, with 64 requests at a time, and hands back the answers in any order.
async fn write(api: &Api, bucket: &Bucket, numbers: std::ops::Range<usize>) -> Vec<Answer> {
    let puts = numbers.map(|number| {
        api.put(&bucket.key(&format!("k{number}")), "v")
            .into_future()
    });
    stream::iter(puts).buffer_unordered(WRITERS).collect().await
}

async fn count(api: &Api, bucket: &Bucket) -> usize {
    let (mut counted, mut after) = (0, String::new());
    loop {
        let page = api.get(&format!("{}?after={after}", bucket.keys())).await;
        if page.status == 404 {
            return counted;
        }
        let page = page.status(200).lines();
        counted += page.len();
        after = page.last().expect("a page has keys").clone();
    }
}

async fn change_plan(api: &Api, bucket: &Bucket, plan: &str) -> Answer {
    api.patch(&bucket.path())
        .api_key(&bucket.account)
        .query(&[("plan", plan)])
        .await
}

/// One bucket goes through all of it: filling one takes the longest.
#[tokio::test]
async fn a_free_bucket_holds_exactly_its_10_000_keys() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.bucket().await;
    let refused = write(&api, &bucket, 0..LIMIT - 100).await;
    assert!(
        refused.iter().all(|answer| answer.status == 200),
        "no refusal below the limit"
    );

    // A race for the last 100 places.
    let answers = write(&api, &bucket, LIMIT..LIMIT + 300).await;
    let (written, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 200);
    assert_eq!(
        written.len(),
        100,
        "each of the last places is taken, and no more"
    );
    refused.iter().for_each(|answer| {
        answer.error(403, "plan_limit");
    });
    assert_eq!(count(&api, &bucket).await, LIMIT);

    full_buckets_take_overwrites_and_deletes(&api, &bucket).await;
    places_that_are_freed_can_be_taken(&api, &bucket).await;
    assert_eq!(count(&api, &bucket).await, LIMIT);

    a_larger_plan_takes_more_and_there_is_no_way_back(&api, &bucket).await;
}

async fn full_buckets_take_overwrites_and_deletes(api: &Api, bucket: &Bucket) {
    let new = || api.put(&bucket.key("new"), "v").into_future();
    new().await.error(403, "plan_limit");
    api.get(&bucket.key("new")).await.error(404, "not_found");
    api.put(&bucket.key("k1"), "overwritten").await.status(200);
    assert_eq!(api.get(&bucket.key("k1")).await.text(), "overwritten");
    api.delete(&bucket.key("k2")).await.status(200);
    new().await.status(200);
    api.put(&bucket.key("k2"), "v")
        .await
        .error(403, "plan_limit");
    api.delete(&bucket.key("new")).await.status(200);
    api.put(&bucket.key("k2"), "v").await.status(200);
}

/// Whoever has deleted a key finds room for another one, whichever shards the two are in.
async fn places_that_are_freed_can_be_taken(api: &Api, bucket: &Bucket) {
    let writers = (0..WRITERS).map(|writer| async move {
        for round in 0..4 {
            let number = writer * 10 + round;
            api.delete(&bucket.key(&format!("k{number}")))
                .await
                .status(200);
            api.put(&bucket.key(&format!("other{number}")), "v")
                .await
                .status(200);
        }
    });
    join_all(writers).await;
}

async fn a_larger_plan_takes_more_and_there_is_no_way_back(api: &Api, bucket: &Bucket) {
    change_plan(api, bucket, "pro").await.status(200);
    api.put(&bucket.key("one-more"), "v").await.status(200);
    change_plan(api, bucket, "free")
        .await
        .error(409, "exceeds_plan");
    assert_eq!(api.summary(bucket).await["plan"], "pro");
    api.delete(&bucket.key("one-more")).await.status(200);
    change_plan(api, bucket, "free").await.status(200);
    api.put(&bucket.key("one-more"), "v")
        .await
        .error(403, "plan_limit");
}

#[tokio::test]
async fn a_key_that_expired_makes_room() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.bucket().await;
    api.put(&bucket.key("passing?ttl=3600"), "v")
        .await
        .status(200);
    let answers = write(&api, &bucket, 0..LIMIT - 1).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    api.put(&bucket.key("new"), "v")
        .await
        .error(403, "plan_limit");
    api.put(&bucket.key("passing?ttl=1"), "v").await.status(200);
    let taken = std::time::Duration::from_secs(30);
    cloudkv_cluster_tests::eventually("the expired key's place is free", taken, async || {
        let answer = api.put(&bucket.key("new"), "v").await;
        (answer.status == 200).then_some(())
    })
    .await;
    api.put(&bucket.key("newer"), "v")
        .await
        .error(403, "plan_limit");
}
