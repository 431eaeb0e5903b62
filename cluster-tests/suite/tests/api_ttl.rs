//! Time to live: its notation, and that a key exists until it expires and not after.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_test_harness::{ApiClient, Bucket, SharedNode, eventually};
use futures_util::future::join_all;
use serde_json::Value;

static NODE: SharedNode = SharedNode::new();

/// Maximum difference between clocks, which bounds the precision of an expiry.
const CLOCK_BOUND: Duration = Duration::from_millis(250);

/// Returns the listed time at which a key expires.
async fn expires_at(api: &ApiClient, bucket: &Bucket, name: &str) -> Option<SystemTime> {
    let list = api.get(&format!("{}?prefix={name}", bucket.listing_path()));
    let list = list.header("accept", "application/json").await.json();
    let key = list["keys"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|key| key["name"] == name);
    match &key.expect("the key is listed")["expires_at"] {
        Value::Null => None,
        text => Some(humantime::parse_rfc3339(text.as_str().expect("a text")).expect("a time")),
    }
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other)
        .unwrap_or_else(|error| error.duration())
}

#[tokio::test]
async fn every_form_of_a_ttl_is_accepted() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let forms = [
        ("5s", 5),
        ("10", 10),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h0m1s", 3601),
        ("7d", 604_800),
        ("1d12h", 129_600),
        ("31536000", 31_536_000),
    ];
    for (ttl, seconds) in forms {
        let before = SystemTime::now();
        let put = api
            .put(&bucket.key_path(&format!("{ttl}?ttl={ttl}")), "v")
            .await;
        let after = SystemTime::now();
        let get = api.get(&bucket.key_path(ttl)).await;
        let (ttl_time, bound) = (Duration::from_secs(seconds), CLOCK_BOUND);
        let exact = expires_at(&api, &bucket, ttl).await.expect("it expires");
        assert!(
            exact >= before + ttl_time - bound,
            "{ttl}: {exact:?} after {before:?}"
        );
        assert!(
            exact <= after + ttl_time + bound,
            "{ttl}: {exact:?} after {after:?}"
        );
        // The header has no fractions of a second.
        for answer in [&put, &get] {
            let header = answer.assert_status(200).header_date("expires");
            assert!(
                distance(header, exact) <= Duration::from_secs(1),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_broken_ttl_is_refused_and_nothing_is_written() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let broken = [
        "abc",
        "-5",
        "5x",
        "s",
        "1.5",
        "5%20s",
        "1h-3m",
        "%2B5",
        "5ss",
        "0x10",
        "1e3",
        "5,5",
        "99999999999999999999",
        "99999999999999999999d",
        "18446744073709551615d",
        "1h30",
        "\u{665}",
    ];
    for ttl in broken {
        let path = bucket.key_path(&format!("k?ttl={ttl}"));
        let answer = api.put(&path, "v").await;
        assert_eq!(answer.status, 400, "ttl={ttl}: {answer:?}");
        answer.assert_error(400, "invalid_ttl");
    }
    api.get(&bucket.key_path("k"))
        .await
        .assert_error(404, "not_found");
}

#[tokio::test]
async fn a_key_exists_until_it_expires_and_not_after() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let watches = [3, 3, 4, 4, 5]
        .into_iter()
        .enumerate()
        .map(|(number, seconds)| {
            let (api, bucket) = (api.clone(), bucket.clone());
            async move { watch_expiry(&api, &bucket, &format!("k{number}"), seconds).await }
        });
    join_all(watches).await;
}

/// Reads a key repeatedly, from its write until it must have expired.
async fn watch_expiry(api: &ApiClient, bucket: &Bucket, name: &str, seconds: u64) {
    let path = bucket.key_path(name);
    api.put(&format!("{path}?ttl={seconds}s"), "v")
        .await
        .assert_status(200);
    let expires = expires_at(api, bucket, name).await.expect("it expires");
    let (mut hits, mut misses) = (0, 0);
    while SystemTime::now() < expires + 3 * CLOCK_BOUND || misses <= 3 {
        let started = SystemTime::now();
        let status = api.get(&path).await.status;
        let ended = SystemTime::now();
        let must_exist = ended < expires - CLOCK_BOUND;
        let must_be_expired = started > expires + CLOCK_BOUND;
        match status {
            200 => assert!(
                !must_be_expired,
                "{name} still exists: {started:?} after {expires:?}"
            ),
            404 => assert!(
                !must_exist,
                "{name} has expired: {ended:?} before {expires:?}"
            ),
            other => panic!("{name}: status {other}"),
        }
        hits += u32::from(status == 200);
        misses += u32::from(status == 404);
        assert!(misses == 0 || status == 404, "{name} reappeared");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        hits > 3 && misses > 3,
        "{name} was read on both sides of its expiry: {hits}, {misses}"
    );
}

async fn wait_expired(api: &ApiClient, path: &str) {
    eventually("the key expires", Duration::from_secs(30), async || {
        (api.head(path).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_write_without_a_ttl_clears_it_and_one_with_a_ttl_sets_it_anew() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for name in ["cleared", "longer", "canary"] {
        api.put(&bucket.key_path(&format!("{name}?ttl=1s")), "v")
            .await
            .assert_status(200);
    }
    api.put(&bucket.key_path("cleared"), "for ever")
        .await
        .assert_status(200);
    api.put(&bucket.key_path("longer?ttl=1h"), "longer")
        .await
        .assert_status(200);
    assert_eq!(expires_at(&api, &bucket, "cleared").await, None);
    wait_expired(&api, &bucket.key_path("canary")).await;
    let cleared = api.get(&bucket.key_path("cleared")).await;
    assert_eq!(cleared.assert_status(200).find_header("expires"), None);
    assert_eq!(cleared.text(), "for ever");
    assert_eq!(
        api.get(&bucket.key_path("longer"))
            .await
            .assert_status(200)
            .text(),
        "longer"
    );
    api.delete(&bucket.key_path("longer"))
        .await
        .assert_status(200);
    api.put(&bucket.key_path("longer"), "new")
        .await
        .assert_status(200);
    assert_eq!(
        expires_at(&api, &bucket, "longer").await,
        None,
        "the ttl of a deleted key is cleared"
    );
}

#[tokio::test]
async fn an_expired_key_is_neither_listed_nor_counted() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for name in ["a", "b?ttl=1s", "c", "d?ttl=1"] {
        api.put(&bucket.key_path(name), "v")
            .await
            .assert_status(200);
    }
    wait_expired(&api, &bucket.key_path("b")).await;
    wait_expired(&api, &bucket.key_path("d")).await;
    assert_eq!(api.get(&bucket.listing_path()).await.lines(), ["a", "c"]);
    let delete = |confirm: u32| {
        let path = format!("{}?confirm={confirm}", bucket.path());
        api.delete(&path).api_key(&bucket.account).into_future()
    };
    eventually("the live count is 2", Duration::from_secs(3), async || {
        let answer = delete(99).await;
        answer.assert_error(409, "confirm_mismatch");
        (answer.json()["keys"] == 2).then_some(())
    })
    .await;
    delete(2).await.assert_status(200);
}

#[tokio::test]
async fn an_expired_key_counts_as_absent_for_conditions() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    let etag = api.put(&format!("{path}?ttl=1s"), "v").await.etag();
    wait_expired(&api, &path).await;
    api.put(&path, "x")
        .header("if-match", &etag)
        .await
        .assert_error(412, "precondition_failed");
    api.put(&path, "x")
        .header("if-match", "*")
        .await
        .assert_error(412, "precondition_failed");
    api.put(&path, "new")
        .header("if-none-match", "*")
        .await
        .assert_status(200);
    assert_eq!(api.get(&path).await.text(), "new");
}
