//! Key names: their encoding in a path, and the names and encodings that are refused.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{NodeLease, RawRequest, SharedNode};

static NODE: SharedNode = SharedNode::new();

/// Key names as written in the path, and decoded.
const NAMES: [(&str, &str); 26] = [
    ("folder/jsons/file.json", "folder/jsons/file.json"),
    ("folder%2Fencoded", "folder/encoded"),
    ("folder%2flower", "folder/lower"),
    ("dir/", "dir/"),
    ("/leading", "/leading"),
    ("double//slash", "double//slash"),
    ("//", "//"),
    ("..", ".."),
    (".", "."),
    ("../up", "../up"),
    ("a/../b", "a/../b"),
    ("%2e%2e/dots", "../dots"),
    ("a%20space", "a space"),
    ("plus+plus", "plus+plus"),
    ("plus%2Bencoded", "plus+encoded"),
    ("100%25", "100%"),
    ("twice%252F", "twice%2F"),
    ("question%3Fmark", "question?mark"),
    ("hash%23tag", "hash#tag"),
    ("%41%42", "AB"),
    ("caf%C3%A9", "caf\u{e9}"),
    ("%E9%94%AE/%F0%9F%94%91", "\u{952e}/\u{1f511}"),
    ("quote%22%27%5C", "quote\"'\\"),
    ("semi;colon,a=b&c:d@e!$~*()", "semi;colon,a=b&c:d@e!$~*()"),
    ("%20", " "),
    ("k", "k"),
];

#[tokio::test]
async fn every_name_is_decoded_exactly_once() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for (written, name) in NAMES {
        let put = RawRequest::new("PUT", &bucket.key_path(written)).parse_body(name.as_bytes());
        put.send(node.http()).await.assert_status(200);
    }
    for (written, name) in NAMES {
        let get = RawRequest::new("GET", &bucket.key_path(written))
            .send(node.http())
            .await;
        assert_eq!(get.assert_status(200).text(), name);
    }
    let mut names = NAMES.map(|(_, name)| name).to_vec();
    names.sort_unstable();
    assert_eq!(
        node.api()
            .get(&bucket.listing_path())
            .await
            .assert_status(200)
            .lines(),
        names
    );
    for (written, _) in NAMES {
        let delete = RawRequest::new("DELETE", &bucket.key_path(written))
            .send(node.http())
            .await;
        delete.assert_status(200);
    }
    node.api()
        .get(&bucket.listing_path())
        .await
        .assert_error(404, "not_found");
}

#[tokio::test]
async fn all_encodings_of_a_name_address_one_key() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for name in ["a/b", "a%2Fb", "a%2fb", "%61/b", "%61%2F%62"] {
        let put = RawRequest::new("PUT", &bucket.key_path(name)).parse_body(name.as_bytes());
        put.send(node.http()).await.assert_status(200);
        assert_eq!(
            api.get(&bucket.key_path("a/b"))
                .await
                .assert_status(200)
                .text(),
            name
        );
    }
    assert_eq!(api.get(&bucket.listing_path()).await.text(), "a/b");
}

#[tokio::test]
async fn a_name_has_up_to_64_bytes_once_decoded() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let fits = [
        "x".repeat(64),
        "%78".repeat(64),
        "%C3%A9".repeat(32),
        "/".repeat(64),
    ];
    let too_long = [
        "x".repeat(65),
        "%78".repeat(65),
        "%C3%A9".repeat(33),
        "/".repeat(65),
    ];
    for name in fits {
        let put = RawRequest::new("PUT", &bucket.key_path(&name))
            .parse_body(b"v")
            .send(node.http())
            .await;
        put.assert_status(200);
        let get = RawRequest::new("GET", &bucket.key_path(&name))
            .send(node.http())
            .await;
        assert_eq!(get.assert_status(200).text(), "v");
    }
    for name in too_long {
        for method in ["PUT", "POST", "GET", "DELETE"] {
            let request = RawRequest::new(method, &bucket.key_path(&name)).parse_body(b"");
            request
                .send(node.http())
                .await
                .assert_error(400, "invalid_key");
        }
        RawRequest::new("HEAD", &bucket.key_path(&name))
            .send(node.http())
            .await
            .assert_status(400);
    }
}

#[tokio::test]
async fn the_empty_name_and_control_characters_are_refused() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for name in ["", "%00", "a%0Ab", "a%0D", "%1F", "%7F", "%C2%85", "tab%09"] {
        for method in ["PUT", "POST", "GET", "DELETE"] {
            let request = RawRequest::new(method, &bucket.key_path(name)).parse_body(b"");
            request
                .send(node.http())
                .await
                .assert_error(400, "invalid_key");
        }
    }
    node.api()
        .get(&bucket.listing_path())
        .await
        .assert_error(404, "not_found");
}

#[tokio::test]
async fn broken_percent_encoding_is_refused() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let broken = [
        "%",
        "a%",
        "%4",
        "%zz",
        "%4g",
        "%%41",
        "%ff",
        "%C3",
        "%C3%28",
        "%ED%A0%80",
    ];
    for name in broken {
        for method in ["PUT", "GET", "DELETE"] {
            let request = RawRequest::new(method, &bucket.key_path(name)).parse_body(b"");
            request
                .send(node.http())
                .await
                .assert_error(400, "invalid_path");
        }
    }
}

#[tokio::test]
async fn a_path_without_a_known_bucket_is_not_found() {
    let node = NODE.lease().await;
    for id in [
        "a0000000000000",
        "nope",
        "b0000000000000",
        "a00000000000000",
        "a%2F0000000000",
    ] {
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let request = RawRequest::new(method, &format!("/kv/{id}/key")).parse_body(b"");
            request
                .send(node.http())
                .await
                .assert_error(404, "unknown_bucket");
        }
    }
}

/// Request that two checks would refuse, and the status and code of the one that is made first.
type RefusedRequest = (&'static str, RawRequest, u16, &'static str);

async fn assert_refused(node: &NodeLease, cases: impl IntoIterator<Item = RefusedRequest>) {
    for (what, request, status, code) in cases {
        let answer = request.send(node.http()).await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code),
            "{what}"
        );
    }
}

#[tokio::test]
async fn path_method_and_bucket_are_checked_first_in_their_documented_order() {
    let node = NODE.lease().await;
    let long = "x".repeat(65);
    let request = |method, rest: &str| {
        let unknown = "/kv/a0000000000000";
        RawRequest::new(method, &format!("{unknown}/{rest}"))
    };
    let cases = [
        (
            "path before method",
            request("LOCK", "%zz"),
            400,
            "invalid_path",
        ),
        (
            "path before bucket",
            request("PUT", "%zz"),
            400,
            "invalid_path",
        ),
        (
            "method before bucket",
            request("LOCK", "k"),
            405,
            "method_not_allowed",
        ),
        (
            "bucket before key",
            request("PUT", &long),
            404,
            "unknown_bucket",
        ),
        (
            "bucket before parameters",
            request("PUT", "k?ttl=x"),
            404,
            "unknown_bucket",
        ),
    ];
    assert_refused(&node, cases).await;
}

#[tokio::test]
async fn access_key_parameters_and_size_are_checked_in_their_documented_order() {
    let node = NODE.lease().await;
    let api = node.api();
    let protected = api.create_bucket_with(&[("access", "protected")]).await;
    let long = "x".repeat(65);
    let big = vec![b'x'; 100_000];
    let put = |key: &str| RawRequest::new("PUT", &protected.key_path(key));
    let authorized = |key: &str| put(key).header("api-key", &protected.account);
    let cases = [
        ("access before key", put(&long), 401, "unauthorized"),
        (
            "access before size",
            put("k").parse_body(&big),
            401,
            "unauthorized",
        ),
        (
            "key before parameters",
            authorized(&format!("{long}?ttl=x")),
            400,
            "invalid_key",
        ),
        (
            "parameters before size",
            authorized("k?ttl=x").parse_body(&big),
            400,
            "invalid_ttl",
        ),
        (
            "size before preconditions",
            authorized("k").header("If-Match", "*").parse_body(&big),
            413,
            "value_too_large",
        ),
    ];
    assert_refused(&node, cases).await;
}

#[tokio::test]
async fn repeated_headers_and_parameters_are_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket_with(&[("access", "protected")]).await;
    let other = api.create_bucket().await.account;
    let get = RawRequest::new("GET", &bucket.key_path("k")).header("api-key", &bucket.account);
    get.clone()
        .header("api-key", &other)
        .send(node.http())
        .await
        .assert_error(400, "invalid_header");
    let list = RawRequest::new("GET", "/buckets").header("api-key", &other);
    let list = list
        .header("api-key", &bucket.account)
        .send(node.http())
        .await;
    list.assert_error(400, "invalid_header");
    for query in ["ttl=5s&ttl=10s", "ttl=5s&ttl=5s", "ttl=5s&x=y&%74tl=5s"] {
        let put = RawRequest::new("PUT", &bucket.key_path(&format!("k?{query}"))).parse_body(b"v");
        let put = put
            .header("api-key", &bucket.account)
            .send(node.http())
            .await;
        put.assert_error(400, "invalid_parameter");
    }
    get.send(node.http()).await.assert_error(404, "not_found");
}
