//! PATCH of a key, in a region of three nodes, through nodes and a router: its conditions, and what
//! it refuses.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloudkv_test_harness::{RoutedRegion, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_key_expires_when_a_patch_says_so() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let path = |name: &str, index: usize| bucket.key_path(&format!("{name}{index}"));
    for (index, (writer, _)) in region.client_pairs().iter().enumerate() {
        for (name, ttl) in [
            ("shortened", "1h"),
            ("persisted", "15s"),
            ("prolonged", "15s"),
            ("unchanged", "15s"),
        ] {
            let put = writer.put(&format!("{}?ttl={ttl}", path(name, index)), "v");
            put.await.assert_status(200);
        }
        let in_three_seconds = SystemTime::now() + Duration::from_secs(3);
        let seconds = in_three_seconds.duration_since(UNIX_EPOCH).unwrap();
        let at = format!("expires_at={}", seconds.as_secs());
        for (name, query) in [
            ("shortened", at.as_str()),
            ("persisted", "persist=true"),
            ("prolonged", "ttl=1h"),
        ] {
            let patch = writer.patch(&format!("{}?{query}", path(name, index)));
            patch.await.assert_status(200);
        }
    }
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        for name in ["shortened", "unchanged"] {
            eventually("the key expires", STATE_TIMEOUT, async || {
                (reader.head(&path(name, index)).await.status == 404).then_some(())
            })
            .await;
        }
        for name in ["persisted", "prolonged"] {
            let get = reader.get(&path(name, index)).await;
            get.assert_status(200);
        }
        let late = writer.patch(&format!("{}?persist=true", path("shortened", index)));
        late.await.assert_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_patch_honours_conditions() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let path = bucket.key_path(&format!("k{index}"));
        let patch = |name: &str, value: &str| {
            let patch = writer.patch(&format!("{path}?ttl=1h"));
            patch.header(name, value).into_future()
        };
        let first = writer.put(&path, "first").await.etag();
        let second = writer.put(&path, "second").await.etag();
        for (name, value) in [
            ("if-match", first.as_str()),
            ("if-none-match", second.as_str()),
            ("if-none-match", "*"),
        ] {
            let answer = patch(name, value).await;
            answer.assert_error(412, "precondition_failed");
        }
        let get = reader.get(&path).await;
        assert_eq!((get.text(), get.etag()), ("second", second.clone()));
        assert_eq!(get.find_header("expires"), None);
        let third = patch("if-match", &second).await.assert_status(200).etag();
        patch("if-match", &second)
            .await
            .assert_error(412, "precondition_failed");
        patch("if-none-match", &first).await.assert_status(200);
        patch("if-match", "*").await.assert_status(200);
        patch("if-match", &third)
            .await
            .assert_error(412, "precondition_failed");
    }
}

#[tokio::test]
async fn a_patch_of_a_key_that_is_not_there_is_404_whatever_its_condition() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let path = |name: &str| bucket.key_path(&format!("{name}{index}"));
        let etag = writer.put(&path("deleted"), "v").await.etag();
        writer.delete(&path("deleted")).await.assert_status(200);
        let put = writer.put(&format!("{}?ttl=1s", path("expired")), "v");
        put.await.assert_status(200);
        eventually("the key expires", STATE_TIMEOUT, async || {
            (reader.head(&path("expired")).await.status == 404).then_some(())
        })
        .await;
        for name in ["never", "deleted", "expired"] {
            // A condition is ignored where the answer without it isn't 2xx (RFC 9110, 13.2.1).
            for (header, value) in [
                ("x-request-id", "no-condition"),
                ("if-match", "*"),
                ("if-match", etag.as_str()),
                ("if-none-match", "*"),
                ("if-none-match", etag.as_str()),
            ] {
                let patch = writer.patch(&format!("{}?ttl=1h", path(name)));
                let patch = patch.header(header, value).await;
                assert_eq!(patch.status, 404, "{name}, {header}: {value}: {patch:?}");
                patch.assert_error(404, "not_found");
            }
            let get = reader.get(&path(name)).await;
            get.assert_error(404, "not_found");
        }
    }
}

#[tokio::test]
async fn a_patch_without_a_change_with_a_body_or_without_access_is_refused() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let mine = clients[0]
        .create_bucket_with(&[("access", "public-read")])
        .await;
    let yours = clients[0].create_bucket().await;
    for (index, api) in clients.iter().enumerate() {
        let path = mine.key_path(&format!("k{index}"));
        let put = api.put(&path, "kept").api_key(&mine.account).await;
        let etag = put.assert_status(200).etag();
        let patch = |query: &str| api.patch(&format!("{path}{query}")).api_key(&mine.account);
        patch("").await.assert_error(400, "invalid_parameter");
        for query in ["?time=5s", "?ttl=5s&time=5s", "?prefix=x", "?ttl=5s&ttl=6s"] {
            let answer = patch(query).await;
            assert_eq!(answer.status, 400, "{query}: {answer:?}");
            answer.assert_error(400, "invalid_parameter");
        }
        for body in ["new", r#"{"ttl":"1h"}"#] {
            let answer = patch("?ttl=1h").body(body).await;
            answer.assert_error(400, "invalid_body");
        }
        let bare = api.patch(&format!("{path}?ttl=1h"));
        bare.await.assert_error(401, "unauthorized");
        let other = api.patch(&format!("{path}?ttl=1h")).api_key(&yours.account);
        other.await.assert_error(403, "forbidden");
        let unknown = api.patch("/kv/a0000000000000/k?ttl=1h").await;
        unknown.assert_error(404, "unknown_bucket");
        let get = api.get(&path).await;
        assert_eq!((get.text(), get.etag()), ("kept", etag));
        assert_eq!(get.find_header("expires"), None);
    }
}
