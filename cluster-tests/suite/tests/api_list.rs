//! Listing keys: order, prefixes, pages, forms.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, Bucket, HttpResponse, RawRequest, SharedNode};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;

static NODE: SharedNode = SharedNode::new();

async fn fill(api: &ApiClient, bucket: &Bucket, names: &[String]) {
    let puts = names
        .iter()
        .map(|name| api.put(&bucket.key_path(name), "v").into_future());
    let answers: Vec<HttpResponse> = stream::iter(puts).buffer_unordered(64).collect().await;
    answers.iter().for_each(|answer| {
        answer.assert_status(200);
    });
}

#[tokio::test]
async fn keys_are_listed_in_the_order_of_their_bytes() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let names = [
        "b",
        "a",
        "B",
        "a/b",
        "a.b",
        "a0",
        "~",
        "10",
        "9",
        "\u{e9}",
        "\u{1f511}",
        "aa",
    ];
    fill(&api, &bucket, &names.map(str::to_owned)).await;
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let list = api.get(&bucket.listing_path()).await;
    assert_eq!(
        list.assert_status(200).header("content-type"),
        "text/plain; charset=utf-8"
    );
    assert_eq!(list.lines(), sorted, "one a line, and none after the last");
}

#[tokio::test]
async fn a_prefix_selects_keys_by_their_first_bytes() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let names = [
        "user/1",
        "user/2",
        "user",
        "users",
        "User/1",
        "a+b",
        "a b",
        "%25",
        "\u{e9}t\u{e9}",
    ];
    fill(&api, &bucket, &names.map(str::to_owned)).await;
    let cases: [(&str, &[&str]); 9] = [
        ("user/", &["user/1", "user/2"]),
        ("user%2F", &["user/1", "user/2"]),
        ("user", &["user", "user/1", "user/2", "users"]),
        ("user/2", &["user/2"]),
        ("a%2B", &["a+b"]),
        ("a+", &["a b"]),
        ("a%20", &["a b"]),
        ("%C3%A9", &["\u{e9}t\u{e9}"]),
        ("%25", &["%"]),
    ];
    for (prefix, expected) in cases {
        let list = api
            .get(&format!("{}?prefix={prefix}", bucket.listing_path()))
            .await;
        assert_eq!(list.assert_status(200).lines(), expected, "prefix={prefix}");
    }
    let all = api.get(&format!("{}?prefix=", bucket.listing_path())).await;
    assert_eq!(all.lines().len(), names.len(), "an empty prefix is none");
}

#[tokio::test]
async fn a_list_without_hits_is_not_found() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.get(&bucket.listing_path())
        .await
        .assert_error(404, "not_found");
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    let list = |query: &str| {
        api.get(&format!("{}{query}", bucket.listing_path()))
            .into_future()
    };
    list("?prefix=x").await.assert_error(404, "not_found");
    list("?prefix=kk").await.assert_error(404, "not_found");
    list("?after=k").await.assert_error(404, "not_found");
    api.head(&format!("{}?prefix=x", bucket.listing_path()))
        .await
        .assert_status(404);
    api.head(&bucket.listing_path())
        .await
        .assert_status(200)
        .assert_empty();
    let json = api
        .get(&format!("{}?prefix=x", bucket.listing_path()))
        .header("accept", "application/json");
    json.await.assert_error(404, "not_found");
    api.delete(&bucket.key_path("k")).await.assert_status(200);
    list("").await.assert_error(404, "not_found");
}

#[tokio::test]
async fn pages_visit_every_key_once() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut names: Vec<String> = (0..2500)
        .map(|number| format!("p/{}", number * 7919))
        .collect();
    names.push("other".to_owned());
    fill(&api, &bucket, &names).await;
    names.pop();
    names.sort_unstable();
    let first_page = api
        .get(&format!("{}?prefix=p/", bucket.listing_path()))
        .await
        .lines();
    assert_eq!(first_page, names[..1000], "at most 1000, the first ones");
    for limit in ["&limit=1000", "&limit=777", ""] {
        let sizes: Vec<usize> = match limit {
            "&limit=777" => vec![777, 777, 777, 169],
            _ => vec![1000, 1000, 500],
        };
        let pages = list_pages(&api, &bucket, &format!("?prefix=p/{limit}")).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert_eq!(pages.concat(), names, "{limit}");
    }
    let first_three = api
        .get(&format!("{}?prefix=p/&limit=3", bucket.listing_path()))
        .await
        .lines();
    assert_eq!(first_three, names[..3]);
    let between = api
        .get(&format!(
            "{}?prefix=p/&limit=2&after=p/5",
            bucket.listing_path()
        ))
        .await
        .lines();
    let position = names.partition_point(|name| name.as_str() <= "p/5");
    assert_eq!(
        between,
        names[position..position + 2],
        "after a name that isn't a key"
    );
}

/// Lists all pages, each `after` the last name of the one before.
async fn list_pages(api: &ApiClient, bucket: &Bucket, query: &str) -> Vec<Vec<String>> {
    let mut pages: Vec<Vec<String>> = vec![];
    let mut after = String::new();
    loop {
        let page = api
            .get(&format!("{}{query}{after}", bucket.listing_path()))
            .await;
        if page.status == 404 {
            return pages;
        }
        let page = page.assert_status(200).lines();
        after = format!("&after={}", page.last().expect("a page has keys"));
        pages.push(page);
        assert!(pages.len() < 10, "the listing doesn't end");
    }
}

#[tokio::test]
async fn wrong_limits_are_refused_or_reduced() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    for limit in ["abc", "-1", "1.5"] {
        let list = api
            .get(&format!("{}?limit={limit}", bucket.listing_path()))
            .await;
        list.assert_error(400, "invalid_parameter");
    }
    for query in ["limit=1&limit=2", "prefix=a&prefix=b", "after=a&after=b"] {
        let list = api.get(&format!("{}?{query}", bucket.listing_path())).await;
        list.assert_error(400, "invalid_parameter");
    }
    let large = api
        .get(&format!("{}?limit=100000", bucket.listing_path()))
        .await;
    assert!(matches!(large.status, 200 | 400), "{large:?}");
}

#[tokio::test]
async fn the_json_form_has_size_version_and_expiry() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let first = api.put(&bucket.key_path("a"), "123").await.etag();
    api.put(&bucket.key_path("b%0"), "")
        .await
        .assert_error(400, "invalid_path");
    api.put(&bucket.key_path("b?ttl=1h"), "")
        .await
        .assert_status(200);
    for accept in [
        "application/json",
        "text/plain;q=0.5, application/json",
        "application/json, */*;q=0.1",
    ] {
        let list = api
            .get(&bucket.listing_path())
            .header("accept", accept)
            .await;
        assert_eq!(
            list.assert_status(200).header("content-type"),
            "application/json; charset=utf-8"
        );
        let keys = list.json()["keys"].as_array().expect("a list").clone();
        assert_eq!(keys.len(), 2);
        let mut fields: Vec<&str> = keys[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "content_type",
                "expires_at",
                "metadata",
                "modified_at",
                "name",
                "size",
                "version"
            ]
        );
        assert_eq!(
            (&keys[0]["name"], &keys[0]["size"]),
            (&"a".into(), &3.into())
        );
        assert_eq!(
            (&keys[1]["name"], &keys[1]["size"]),
            (&"b".into(), &0.into())
        );
        let version = keys[0]["version"].as_str().expect("a text");
        assert_eq!(
            version.trim_matches('"'),
            first.trim_matches('"'),
            "the version is the ETag"
        );
        assert_eq!(keys[0]["expires_at"], Value::Null);
        let expires = keys[1]["expires_at"].as_str().expect("a text");
        humantime::parse_rfc3339(expires).expect("a time");
    }
    for accept in [
        "*/*",
        "text/plain",
        "text/html, application/json;q=0.1, text/plain",
    ] {
        let list = api
            .get(&bucket.listing_path())
            .header("accept", accept)
            .await;
        assert_eq!(list.assert_status(200).lines(), ["a", "b"], "{accept}");
    }
}

#[tokio::test]
async fn a_list_shows_the_writes_acknowledged_before_it() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut expected = vec![];
    for number in 0..40 {
        let name = format!("{number:02}");
        api.put(&bucket.key_path(&name), "v")
            .await
            .assert_status(200);
        expected.push(name);
        assert_eq!(api.get(&bucket.listing_path()).await.lines(), expected);
    }
    for number in (0..40).step_by(2) {
        let name = format!("{number:02}");
        api.delete(&bucket.key_path(&name)).await.assert_status(200);
        expected.retain(|listed| *listed != name);
        assert_eq!(api.get(&bucket.listing_path()).await.lines(), expected);
    }
}

#[tokio::test]
async fn buckets_do_not_see_each_others_keys() {
    let node = NODE.lease().await;
    let api = node.api();
    let (one, other) = (api.create_bucket().await, api.create_bucket().await);
    api.put(&one.key_path("k"), "of one")
        .await
        .assert_status(200);
    api.get(&other.key_path("k"))
        .await
        .assert_error(404, "not_found");
    api.get(&other.listing_path())
        .await
        .assert_error(404, "not_found");
    api.put(&other.key_path("k"), "of the other")
        .await
        .assert_status(200);
    api.delete(&other.key_path("k")).await.assert_status(200);
    assert_eq!(
        api.get(&one.key_path("k")).await.assert_status(200).text(),
        "of one"
    );
}

#[tokio::test]
async fn broken_queries_are_refused() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    node.api()
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    for query in ["prefix=%ff", "after=%ff"] {
        let target = format!("{}?{query}", bucket.listing_path());
        let answer = RawRequest::new("GET", &target).send(node.http()).await;
        // Either bytes that no key has, or an error; never another prefix.
        assert!(matches!(answer.status, 400 | 404), "{answer:?}");
    }
}
