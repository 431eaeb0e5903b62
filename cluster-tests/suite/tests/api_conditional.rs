//! Conditional reads and writes, alone and under contention.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_test_harness::{ApiClient, RawRequest, SharedNode};
use futures_util::future::join_all;
use http::Method;

static NODE: SharedNode = SharedNode::new();

/// An `ETag` of the right form that no key has.
const UNKNOWN_ETAG: &str = "\"00000000000000ff-1\"";

#[tokio::test]
async fn a_reader_who_has_the_value_gets_304() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    let etag = api.put(&path, "v").await.etag();
    let several = format!("{UNKNOWN_ETAG}, {etag}");
    let weak = format!("W/{etag}");
    for condition in [etag.as_str(), several.as_str(), weak.as_str(), "*"] {
        for method in [Method::GET, Method::HEAD] {
            let answer = api
                .request(method, &path)
                .header("if-none-match", condition)
                .await;
            assert_eq!(
                answer.assert_status(304).assert_empty().etag(),
                etag,
                "{condition}"
            );
        }
    }
    let other = api.get(&path).header("if-none-match", UNKNOWN_ETAG).await;
    assert_eq!(other.assert_status(200).text(), "v");
    api.put(&path, "newer").await.assert_status(200);
    let changed = api.get(&path).header("if-none-match", &etag).await;
    assert_eq!(changed.assert_status(200).text(), "newer");
    let absent = api
        .get(&bucket.key_path("absent"))
        .header("if-none-match", &etag)
        .await;
    absent.assert_error(404, "not_found");
}

#[tokio::test]
async fn a_reader_who_has_read_since_the_last_write_gets_304() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    api.put(&path, "v").await.assert_status(200);
    let modified = api.get(&path).await.header("last-modified").to_owned();
    let hour = Duration::from_secs(3600);
    let [past, future] = [SystemTime::now() - hour, SystemTime::now() + hour];
    let since = |date: &str| {
        api.get(&path)
            .header("if-modified-since", date)
            .into_future()
    };
    since(&modified).await.assert_status(304).assert_empty();
    since(&httpdate::fmt_http_date(future))
        .await
        .assert_status(304);
    assert_eq!(
        since(&httpdate::fmt_http_date(past))
            .await
            .assert_status(200)
            .text(),
        "v"
    );
    since("not a date").await.assert_status(200);
    // If-None-Match takes precedence (RFC 9110, 13.2.2).
    let both = api
        .get(&path)
        .header("if-none-match", UNKNOWN_ETAG)
        .header("if-modified-since", &modified);
    both.await.assert_status(200);
}

#[tokio::test]
async fn if_match_lets_only_the_current_version_be_replaced() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    let put = |value: &'static str, condition: &str| {
        api.put(&path, value)
            .header("if-match", condition)
            .into_future()
    };
    put("never", UNKNOWN_ETAG)
        .await
        .assert_error(412, "precondition_failed");
    put("never", "*")
        .await
        .assert_error(412, "precondition_failed");
    let first = api.put(&path, "first").await.etag();
    let second = put("second", &first).await.assert_status(200).etag();
    assert_ne!(first, second);
    put("never", &first)
        .await
        .assert_error(412, "precondition_failed");
    assert_eq!(api.get(&path).await.text(), "second");
    let third = put("third", &format!("{UNKNOWN_ETAG}, {second}"))
        .await
        .assert_status(200)
        .etag();
    let post = api
        .post(&path)
        .body("fourth")
        .header("if-match", &third)
        .await;
    let fourth = post.assert_status(200).etag();
    put("fifth", "*").await.assert_status(200);
    put("never", &fourth)
        .await
        .assert_error(412, "precondition_failed");
    assert_eq!(api.get(&path).await.text(), "fifth");
}

#[tokio::test]
async fn if_match_in_several_header_lines_is_one_list() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let etag = node.api().put(&bucket.key_path("k"), "v").await.etag();
    let put = RawRequest::new("PUT", &bucket.key_path("k")).header("If-Match", UNKNOWN_ETAG);
    put.header("If-Match", &etag)
        .parse_body(b"new")
        .send(node.http())
        .await
        .assert_status(200);
}

#[tokio::test]
async fn if_none_match_lets_only_an_absent_key_be_created() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for method in [Method::PUT, Method::POST] {
        let path = bucket.key_path(method.as_str());
        let create = || {
            let call = api
                .request(method.clone(), &path)
                .header("if-none-match", "*");
            call.body("created").into_future()
        };
        create().await.assert_status(200);
        create().await.assert_error(412, "precondition_failed");
        api.delete(&path).await.assert_status(200);
        create().await.assert_status(200);
    }
}

#[tokio::test]
async fn deletes_can_be_conditional() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    let delete = |name: &str, value: &str| api.delete(&path).header(name, value).into_future();
    delete("if-match", "*")
        .await
        .assert_error(412, "precondition_failed");
    delete("if-match", UNKNOWN_ETAG)
        .await
        .assert_error(412, "precondition_failed");
    let first = api.put(&path, "first").await.etag();
    let second = api.put(&path, "second").await.etag();
    delete("if-match", &first)
        .await
        .assert_error(412, "precondition_failed");
    delete("if-none-match", "*")
        .await
        .assert_error(412, "precondition_failed");
    assert_eq!(api.get(&path).await.assert_status(200).text(), "second");
    delete("if-match", &second).await.assert_status(200);
    api.get(&path).await.assert_error(404, "not_found");
}

#[tokio::test]
async fn an_invalid_condition_is_never_ignored() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    api.put(&path, "v").await.assert_status(200);
    for condition in ["unquoted", "\"open", "\"foreign-etag\"", ""] {
        let put = api.put(&path, "lost").header("if-match", condition).await;
        assert!(
            matches!(put.status, 400 | 412),
            "If-Match: {condition}: {put:?}"
        );
    }
    assert_eq!(api.get(&path).await.text(), "v");
}

#[tokio::test]
async fn of_many_creators_exactly_one_wins() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for round in 0..10 {
        let path = bucket.key_path(&format!("lock-{round}"));
        let racers = (0..32).map(|racer| {
            // One client each, so that no connection orders the requests.
            let api = ApiClient::new(node.http());
            let call = api
                .put(&path, racer.to_string())
                .header("if-none-match", "*");
            call.into_future()
        });
        let answers = join_all(racers).await;
        let winners: Vec<usize> = (0..32)
            .filter(|racer| answers[*racer].status == 200)
            .collect();
        let &[winner] = winners.as_slice() else {
            panic!("winners: {winners:?}")
        };
        for (_, loser) in answers
            .iter()
            .enumerate()
            .filter(|(racer, _)| *racer != winner)
        {
            loser.assert_error(412, "precondition_failed");
        }
        let get = node.api().get(&path).await;
        assert_eq!(
            (get.text(), get.etag()),
            (winner.to_string().as_str(), answers[winner].etag())
        );
    }
}

#[tokio::test]
async fn a_counter_kept_by_compare_and_set_loses_no_increment() {
    const CLIENTS: usize = 16;
    const INCREMENTS: usize = 10;
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let path = bucket.key_path("counter");
    node.api().put(&path, "0").await.assert_status(200);
    let clients = (0..CLIENTS).map(|_| {
        let (api, path) = (node.api(), path.clone());
        tokio::spawn(async move {
            for _ in 0..INCREMENTS {
                increment(&api, &path).await;
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let total = node.api().get(&path).await;
    assert_eq!(total.text(), (CLIENTS * INCREMENTS).to_string());
}

async fn increment(api: &ApiClient, path: &str) {
    loop {
        let read = api.get(path).await;
        let count: u64 = read.assert_status(200).text().parse().expect("a number");
        let put = api
            .put(path, (count + 1).to_string())
            .header("if-match", &read.etag())
            .await;
        match put.status {
            200 => return,
            412 => {}
            other => panic!("status {other}: {put:?}"),
        }
    }
}
