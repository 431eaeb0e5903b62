//! The limit on the size of a value, and the early refusal of larger ones.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::{RawConnection, RawOutcome, RawRequest, SharedNode, encode_chunk};

static NODE: SharedNode = SharedNode::new();

/// Bound on a response that doesn't wait for the body, on a busy machine.
const EARLY_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_value_has_up_to_the_plans_limit() {
    let node = NODE.lease().await;
    let api = node.api();
    for (plan, limit) in [("free", 4096), ("pro", 4096), ("business", 16_384)] {
        let bucket = api.create_bucket_with(&[("plan", plan)]).await;
        for (size, status) in [(limit - 1, 200), (limit, 200), (limit + 1, 413)] {
            let value = vec![b'v'; size];
            let target = bucket.key_path(&size.to_string());
            let put = |target: &str| RawRequest::new("PUT", target);
            let chunked = format!("{target}-chunked");
            let answers = [
                put(&target).parse_body(&value).send(node.http()).await,
                put(&chunked)
                    .chunked(&[&value[..7], &value[7..]])
                    .send(node.http())
                    .await,
            ];
            for answer in &answers {
                answer.assert_status(status);
                if status == 413 {
                    answer.assert_error(413, "value_too_large");
                }
            }
            for target in [&target, &chunked] {
                let get = api.get(target).await;
                assert_eq!(get.status, if status == 200 { 200 } else { 404 });
                assert!(
                    status != 200 || get.body == value,
                    "{size} bytes are returned"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_refused_value_leaves_the_old_one() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "old")
        .await
        .assert_status(200);
    let put = RawRequest::new("PUT", &bucket.key_path("k")).parse_body(&vec![b'x'; 5000]);
    put.send(node.http())
        .await
        .assert_error(413, "value_too_large");
    assert_eq!(api.get(&bucket.key_path("k")).await.text(), "old");
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_the_body_comes() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for length in ["4097", "1073741824", "9223372036854775807"] {
        let request =
            RawRequest::new("PUT", &bucket.key_path("k")).header("Content-Length", length);
        let answer = request.send(node.http()).await;
        answer.assert_error(413, "value_too_large");
        assert!(answer.elapsed < EARLY_ANSWER_TIMEOUT, "{answer:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_is_refused_once_it_passes_the_limit() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    let request =
        RawRequest::new("PUT", &bucket.key_path("k")).header("Transfer-Encoding", "chunked");
    connection.write(&request.bytes()).await;
    connection.write(&encode_chunk(&[b'x'; 4000])).await;
    connection.write(&encode_chunk(&[b'x'; 97])).await;
    // The last chunk is never sent.
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("no answer")
    };
    answer.assert_error(413, "value_too_large");
    assert!(answer.elapsed < EARLY_ANSWER_TIMEOUT, "{answer:?}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    let request = RawRequest::new("PUT", &bucket.key_path("k"))
        .header("Content-Length", "5")
        .header("Expect", "100-continue");
    connection.write(&request.bytes()).await;
    let RawOutcome::Response(interim) = connection.receive_with_interim(false).await else {
        panic!("no answer")
    };
    interim.assert_status(100);
    connection.write(b"value").await;
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("no answer")
    };
    answer.assert_status(200);
    assert_eq!(node.api().get(&bucket.key_path("k")).await.text(), "value");
}

#[tokio::test]
async fn a_refused_request_gets_no_100_continue() {
    let node = NODE.lease().await;
    let api = node.api();
    let (public, protected) = (
        api.create_bucket().await,
        api.create_bucket_with(&[("access", "protected")]).await,
    );
    let cases = [
        (public.key_path("k"), "4097", 413, "value_too_large"),
        (public.key_path("k?ttl=x"), "5", 400, "invalid_ttl"),
        (protected.key_path("k"), "5", 401, "unauthorized"),
        (
            "/kv/a0000000000000/k".to_owned(),
            "5",
            404,
            "unknown_bucket",
        ),
    ];
    for (target, length, status, code) in cases {
        let mut connection = RawConnection::open(node.http()).await;
        let request = RawRequest::new("PUT", &target)
            .header("Content-Length", length)
            .header("Expect", "100-continue");
        connection.write(&request.bytes()).await;
        let RawOutcome::Response(answer) = connection.receive_with_interim(false).await else {
            panic!("no answer")
        };
        answer.assert_error(status, code);
    }
}

#[tokio::test]
async fn a_truncated_body_is_not_stored() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "whole")
        .await
        .assert_status(200);
    let put = || RawRequest::new("PUT", &bucket.key_path("k"));
    let cut = [
        put().header("Content-Length", "10").raw_body(b"half"),
        put()
            .header("Transfer-Encoding", "chunked")
            .raw_body(&encode_chunk(b"half")),
        put()
            .header("Transfer-Encoding", "chunked")
            .raw_body(b"a\r\nhalf"),
        put()
            .header("Transfer-Encoding", "chunked")
            .raw_body(b"zz\r\nhalf\r\n0\r\n\r\n"),
    ];
    for request in cut {
        let mut connection = RawConnection::open(node.http()).await;
        connection.write(&request.bytes()).await;
        connection.shutdown_write().await;
        connection.receive(false).await.assert_refused(&[400, 408]);
        assert_eq!(api.get(&bucket.key_path("k")).await.text(), "whole");
    }
}
