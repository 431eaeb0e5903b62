//! How many buckets one address may create.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_cluster_tests::{Answer, Api, Bucket, Node, NodeOptions, Router};
use futures_util::{StreamExt, stream};

async fn node(args: &[&str]) -> Node {
    Node::start_with(NodeOptions {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..NodeOptions::default()
    })
    .await
}

/// Creates a bucket for a client that some proxy names.
async fn create_for(api: &Api, client: &str) -> Answer {
    let call = api.post("/buckets").header("x-forwarded-for", client);
    call.await
}

fn refused(answer: &Answer) {
    answer.error(429, "too_many_requests");
    // Two an hour.
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{answer:?}");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    let told = message.contains("2 buckets an hour") && message.contains(&format!("{seconds} s"));
    assert!(told, "{message}");
}

#[tokio::test]
async fn an_address_creates_as_many_buckets_as_it_may_and_does_all_else() {
    let node = node(&["--address-creations-per-hour", "2"]).await;
    let api = node.api();
    // What is refused for another reason doesn't count.
    for _ in 0..3 {
        let wrong = api.post("/buckets").query(&[("access", "secret")]).await;
        wrong.error(400, "invalid_access");
        let plan = [("access", "protected"), ("plan", "free")];
        let refused = api.post("/buckets").query(&plan).await;
        refused.error(403, "plan_limit");
    }
    let bucket = Bucket::from_answer(&api.post("/buckets").await);
    let second = api.post("/buckets").api_key(&bucket.account).await;
    second.status(201);
    refused(&api.post("/buckets").await);
    refused(&api.post("/buckets").api_key(&bucket.account).await);
    // A stranger may claim to be who it likes.
    refused(&create_for(&api, "203.0.113.9").await);
    api.put(&bucket.key("k"), "v").await.status(200);
    let delete = api.delete(&format!("{}?confirm=1", bucket.path()));
    assert_ne!(delete.api_key(&bucket.account).await.status, 429);
    api.get("/buckets")
        .api_key(&bucket.account)
        .await
        .status(200);
}

#[tokio::test]
async fn a_flood_of_creations_is_refused_by_default_and_nobody_else_is() {
    // As the docs say.
    const AN_HOUR: usize = 1000;
    let node = node(&["--trusted-proxies", "127.0.0.0/8"]).await;
    let api = node.api();
    let flood = stream::iter(0..AN_HOUR + 50)
        .map(|_| async { create_for(&api, "203.0.113.9").await.status })
        .buffer_unordered(32);
    let answers: Vec<u16> = flood.collect().await;
    let created = answers.iter().filter(|status| **status == 201).count();
    let refused = answers.iter().filter(|status| **status == 429).count();
    assert_eq!(created + refused, answers.len());
    // While it lasts, room comes back, one in 3.6 s.
    assert!((AN_HOUR..AN_HOUR + 50).contains(&created), "{created}");
    create_for(&api, "203.0.113.10").await.status(201);
}

#[tokio::test]
async fn behind_routers_it_is_their_clients_addresses_that_count() {
    let limited = ["--address-creations-per-hour", "2"];
    let trusting = ["--trusted-proxies", "127.0.0.0/8"];
    let node = node(&[limited, trusting].concat()).await;
    let router = Router::start_with(&[node.rpc()], &trusting).await;
    let api = router.api();
    for client in ["203.0.113.9", "2001:db8:0:1::1"] {
        for _ in 0..2 {
            create_for(&api, client).await.status(201);
        }
        refused(&create_for(&api, client).await);
    }
    // Of the same network as the last one.
    refused(&create_for(&api, "2001:db8:0:1::2").await);
    // Itself, of whom the router says nothing but its address.
    for _ in 0..2 {
        api.post("/buckets").await.status(201);
    }
    refused(&api.post("/buckets").await);
}
