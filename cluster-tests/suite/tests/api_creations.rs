//! The limit on buckets that one client address may create.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, Bucket, HttpResponse, Node, NodeOptions, Router};
use futures_util::{StreamExt, stream};

async fn start_node(args: &[&str]) -> Node {
    Node::start_with(NodeOptions {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..NodeOptions::default()
    })
    .await
}

/// Creates a bucket with a client address in `X-Forwarded-For`.
async fn create_for(api: &ApiClient, client: &str) -> HttpResponse {
    let call = api.post("/buckets").header("x-forwarded-for", client);
    call.await
}

fn assert_refused(answer: &HttpResponse) {
    answer.assert_error(429, "too_many_requests");
    // The limit is two an hour.
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{answer:?}");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    let retry_after = format!("{seconds} s");
    assert!(message.contains("2 buckets an hour"), "{message}");
    assert!(message.contains(&retry_after), "{message}");
}

#[tokio::test]
async fn an_address_over_its_creation_limit_can_do_everything_else() {
    let node = start_node(&["--address-creations-per-hour", "2"]).await;
    let api = node.api();
    // Creations that are refused for another reason don't count.
    for _ in 0..3 {
        let wrong = api.post("/buckets").query(&[("access", "secret")]).await;
        wrong.assert_error(400, "invalid_access");
        let plan = [("access", "protected"), ("plan", "free")];
        let refused = api.post("/buckets").query(&plan).await;
        refused.assert_error(403, "plan_limit");
    }
    let bucket = Bucket::from_response(&api.post("/buckets").await);
    let second = api.post("/buckets").api_key(&bucket.account).await;
    second.assert_status(201);
    assert_refused(&api.post("/buckets").await);
    assert_refused(&api.post("/buckets").api_key(&bucket.account).await);
    // An untrusted client's X-Forwarded-For is ignored.
    assert_refused(&create_for(&api, "203.0.113.9").await);
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    let delete = api.delete(&format!("{}?confirm=1", bucket.path()));
    assert_ne!(delete.api_key(&bucket.account).await.status, 429);
    api.get("/buckets")
        .api_key(&bucket.account)
        .await
        .assert_status(200);
}

#[tokio::test]
async fn a_flood_of_creations_is_limited_by_default_and_other_addresses_are_not() {
    // The documented default.
    const CREATIONS_PER_HOUR: usize = 1000;
    let node = start_node(&["--trusted-proxies", "127.0.0.0/8"]).await;
    let api = node.api();
    let flood = stream::iter(0..CREATIONS_PER_HOUR + 50)
        .map(|_| async { create_for(&api, "203.0.113.9").await.status })
        .buffer_unordered(32);
    let answers: Vec<u16> = flood.collect().await;
    let created = answers.iter().filter(|status| **status == 201).count();
    let refused = answers.iter().filter(|status| **status == 429).count();
    assert_eq!(created + refused, answers.len());
    // Meanwhile the limiter refills, one creation in 3.6 s.
    assert!(
        (CREATIONS_PER_HOUR..CREATIONS_PER_HOUR + 50).contains(&created),
        "{created}"
    );
    create_for(&api, "203.0.113.10").await.assert_status(201);
}

#[tokio::test]
async fn behind_a_router_the_limit_applies_to_the_clients_address() {
    let limited = ["--address-creations-per-hour", "2"];
    let trusting = ["--trusted-proxies", "127.0.0.0/8"];
    let node = start_node(&[limited, trusting].concat()).await;
    let router = Router::start_with(&[node.rpc()], &trusting).await;
    let api = router.api();
    for client in ["203.0.113.9", "2001:db8:0:1::1"] {
        for _ in 0..2 {
            create_for(&api, client).await.assert_status(201);
        }
        assert_refused(&create_for(&api, client).await);
    }
    // The same /64 network as the last one.
    assert_refused(&create_for(&api, "2001:db8:0:1::2").await);
    // Without the header, the router forwards the connection's own address.
    for _ in 0..2 {
        api.post("/buckets").await.assert_status(201);
    }
    assert_refused(&api.post("/buckets").await);
}
