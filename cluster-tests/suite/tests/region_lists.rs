//! Lists of keys and of buckets, page by page: in a region of three nodes, through each of them and
//! a router.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, Bucket, HttpResponse, RoutedRegion};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

/// `Accept` for the two forms of a list.
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
/// Maximum size of the values in one answer, in bytes.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// More pages than any list here has.
const MAX_PAGES: usize = 100;
/// Number of concurrent writes.
const WRITERS: usize = 32;

async fn put_all(api: &ApiClient, bucket: &Bucket, keys: &[(String, Vec<u8>)]) {
    let puts = keys
        .iter()
        .map(|(name, value)| api.put(&bucket.key_path(name), value.clone()).into_future());
    let puts: Vec<HttpResponse> = stream::iter(puts).buffer_unordered(WRITERS).collect().await;
    puts.iter().for_each(|put| {
        put.assert_status(200);
    });
}

async fn put_names(api: &ApiClient, bucket: &Bucket, names: &[&str]) {
    let keys = names.iter().map(|name| ((*name).to_owned(), b"v".to_vec()));
    put_all(api, bucket, &keys.collect::<Vec<_>>()).await;
}

async fn list(api: &ApiClient, bucket: &Bucket, query: &str, accept: &str) -> HttpResponse {
    let path = format!("{}?{query}", bucket.listing_path());
    api.get(&path).header("accept", accept).await
}

/// Reads all pages of a list, each through another client; the last one has no link.
async fn follow(clients: &[ApiClient], first: &str, accept: &str) -> Vec<HttpResponse> {
    let mut pages = vec![];
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let api = &clients[pages.len() % clients.len()];
        let page = api.get(&path).header("accept", accept).await;
        next = page.assert_status(200).next_path();
        if accept == JSON {
            let body = page.json();
            assert_eq!(body["list_complete"], next.is_none(), "{page:?}");
            let linked = next.as_ref().and_then(|path| path.split_once("cursor="));
            assert_eq!(body["cursor"].as_str(), linked.map(|(_, cursor)| cursor));
        }
        pages.push(page);
        assert!(pages.len() < MAX_PAGES, "the list of {first} does not end");
    }
    pages
}

/// Reads a list as text, as a client does that begins each page behind the last line of the one
/// before it.
async fn follow_lines(clients: &[ApiClient], first: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for number in 0..MAX_PAGES {
        let after = lines.last().map_or("", String::as_str);
        let path = format!("{first}&after={after}");
        let api = &clients[number % clients.len()];
        let page = api.get(&path).header("accept", TEXT).await;
        if page.status == 404 {
            page.assert_error(404, "not_found");
            return lines;
        }
        lines.extend(page.assert_status(200).lines());
    }
    panic!("the list of {first} does not end");
}

/// Returns the names in a field of a JSON list.
fn names(page: &HttpResponse, field: &str) -> Vec<String> {
    let body = page.json();
    let entries = body[field].as_array().expect("a list").iter();
    entries
        .map(|entry| {
            let name = entry["name"].as_str().or(entry.as_str());
            name.expect("a name").to_owned()
        })
        .collect()
}

/// Returns the names on each page: keys and common prefixes in text, keys in JSON.
fn names_by_page(pages: &[HttpResponse], accept: &str) -> Vec<Vec<String>> {
    let names_of = |page: &HttpResponse| match accept {
        JSON => names(page, "keys"),
        _ => page.lines(),
    };
    pages.iter().map(names_of).collect()
}

#[tokio::test]
async fn pages_have_each_key_once_in_either_order() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let mut expected: Vec<String> = (0..60).map(|number| format!("k/{number:02}")).collect();
    expected.push("k/\u{e9}".to_owned());
    let mut all: Vec<&str> = expected.iter().map(String::as_str).collect();
    all.extend(["a", "k", "k0", "z"]);
    put_names(&clients[1], &bucket, &all).await;
    for reverse in ["false", "true"] {
        for (limit, accept) in [(7, JSON), (7, TEXT), (61, JSON), (1000, TEXT)] {
            let path = format!(
                "{}?prefix=k/&limit={limit}&reverse={reverse}",
                bucket.listing_path()
            );
            let pages = follow(&clients, &path, accept).await;
            let pages = names_by_page(&pages, accept);
            assert_eq!(pages.concat(), expected, "{path} {accept}");
            assert_eq!(pages.len(), expected.len().div_ceil(limit));
        }
        expected.reverse();
    }
    for (query, expected) in [
        ("prefix=k/&after=k/02&reverse=true", vec!["k/01", "k/00"]),
        ("prefix=k/5&after=k/57", vec!["k/58", "k/59"]),
        ("start=k&end=k/01", vec!["k", "k/00"]),
        ("start=k&end=k/01&reverse=true", vec!["k/00", "k"]),
        ("start=k/59&end=k0&prefix=k/", vec!["k/59", "k/\u{e9}"]),
        ("start=k/591", vec!["k/\u{e9}", "k0", "z"]),
    ] {
        for api in &clients {
            let page = list(api, &bucket, query, TEXT).await;
            assert_eq!(page.assert_status(200).lines(), expected, "{query}");
            assert_eq!(page.next_path(), None);
        }
    }
}

#[tokio::test]
async fn a_delimiter_lists_each_common_prefix_once() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let below: Vec<String> = (0..40).map(|number| format!("dir/{number}")).collect();
    let mut all: Vec<&str> = below.iter().map(String::as_str).collect();
    all.extend([
        "a",
        "dir/sub/1",
        "dir/sub/2",
        "dir2/x",
        "dir3",
        "\u{e9}/\u{e9}",
    ]);
    put_names(&clients[2], &bucket, &all).await;
    let mut expected = vec!["a", "dir/", "dir2/", "dir3", "\u{e9}/"];
    for reverse in ["false", "true"] {
        for limit in [1, 2, 1000] {
            let path = format!(
                "{}?delimiter=/&limit={limit}&reverse={reverse}",
                bucket.listing_path()
            );
            let pages = follow(&clients, &path, TEXT).await;
            assert_eq!(names_by_page(&pages, TEXT).concat(), expected, "{path}");
            assert_eq!(follow_lines(&clients, &path).await, expected, "{path}");
            for page in follow(&clients, &path, JSON).await {
                let (keys, prefixes) = (names(&page, "keys"), names(&page, "prefixes"));
                assert!((1..=limit).contains(&(keys.len() + prefixes.len())));
                assert!(keys.iter().all(|key| !key.contains('/')), "{page:?}");
                assert!(prefixes.iter().all(|prefix| prefix.ends_with('/')));
            }
        }
        expected.reverse();
    }
    let page = list(&clients[3], &bucket, "prefix=dir/&delimiter=/", JSON).await;
    let mut sorted = below.clone();
    sorted.sort();
    assert_eq!(names(&page, "keys"), sorted);
    assert_eq!(names(&page, "prefixes"), ["dir/sub/"]);
    let page = list(&clients[0], &bucket, "prefix=dir&delimiter=ir", JSON).await;
    assert_eq!(names(&page, "keys").len(), all.len() - 2, "not behind it");
    let page = list(&clients[1], &bucket, "prefix=di&delimiter=r/", JSON).await;
    assert_eq!(names(&page, "prefixes"), ["dir/"]);
    assert_eq!(names(&page, "keys"), ["dir2/x", "dir3"]);
}

#[tokio::test]
async fn values_are_listed_as_text_or_base64() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let text = "Z\u{fc}rich\n\"\\\u{0}\u{1f511}";
    let keys = [
        ("binary", vec![0xff, 0xfe, 0x00]),
        ("empty", vec![]),
        ("text", text.as_bytes().to_vec()),
    ];
    let keys = keys.map(|(name, value)| (name.to_owned(), value));
    put_all(&clients[0], &bucket, &keys).await;
    let typed = clients[1].put(&bucket.key_path("typed"), "{}");
    let typed = typed.header("content-type", "application/json");
    typed
        .header("x-cloudkv-metadata", "{\"a\":1}")
        .await
        .assert_status(200);
    for api in &clients {
        let page = list(api, &bucket, "values=true", JSON).await;
        let listed = page.assert_status(200).json();
        let field = |at: usize, name: &str| listed["keys"][at].get(name).cloned();
        assert_eq!(names(&page, "keys"), ["binary", "empty", "text", "typed"]);
        assert_eq!(field(0, "value_base64"), Some(json!("//4A")));
        assert_eq!(field(0, "value"), None);
        for (at, value) in [(1, ""), (2, text), (3, "{}")] {
            assert_eq!(field(at, "value"), Some(json!(value)));
            assert_eq!(field(at, "value_base64"), None);
            assert_eq!(field(at, "size"), Some(json!(value.len())));
        }
        assert_eq!(
            field(0, "content_type"),
            Some(json!("application/octet-stream"))
        );
        assert_eq!(field(0, "metadata"), Some(Value::Null));
        assert_eq!(field(3, "content_type"), Some(json!("application/json")));
        assert_eq!(field(3, "metadata"), Some(json!({"a": 1})));
        let get = api.head(&bucket.key_path("typed")).await;
        let modified = field(3, "modified_at").unwrap();
        let modified = humantime::parse_rfc3339(modified.as_str().unwrap()).unwrap();
        let since = modified.duration_since(get.header_date("last-modified"));
        assert!(since.unwrap().as_secs() < 1, "the time of the last write");
        let plain = list(api, &bucket, "values=false", JSON).await.json();
        let fields = plain["keys"][1].as_object().unwrap();
        assert!(!fields.contains_key("value") && !fields.contains_key("value_base64"));
        let page = list(api, &bucket, "values=true&limit=2", TEXT).await;
        assert_eq!(page.lines(), ["binary", "empty"], "text has names only");
        assert!(page.next_path().unwrap().contains("&values=true&"));
    }
}

#[tokio::test]
async fn an_answer_is_bounded_by_the_bytes_of_its_values() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket_with(&[("plan", "business")]).await;
    let value = |number: u8| vec![b'a' + number % 26; 16_000];
    let keys: Vec<_> = (0..=255_u8)
        .map(|number| (format!("k{number:03}"), value(number)))
        .chain((0..50).map(|number| (format!("l{number:03}"), value(number))))
        .collect();
    put_all(&clients[0], &bucket, &keys).await;
    for reverse in ["false", "true"] {
        let path = format!("{}?values=true&reverse={reverse}", bucket.listing_path());
        let pages = follow(&clients, &path, JSON).await;
        let keys_per_page = MAX_VALUE_BYTES / 16_000;
        assert_eq!(pages.len(), keys.len().div_ceil(keys_per_page), "{reverse}");
        let mut listed = vec![];
        for page in &pages {
            let body = page.json();
            let keys = body["keys"].as_array().unwrap();
            let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
            let keys = keys.iter();
            let keys: Vec<_> = keys
                .map(|key| (text(key, "name"), text(key, "value").into_bytes()))
                .collect();
            let bytes: usize = keys.iter().map(|(_, value)| value.len()).sum();
            assert!(bytes <= MAX_VALUE_BYTES, "{bytes}");
            listed.extend(keys);
        }
        if reverse == "true" {
            listed.reverse();
        }
        assert!(listed == keys, "each value once and in order: {reverse}");
    }
    let page = list(&clients[3], &bucket, "", JSON).await;
    assert_eq!(names(&page, "keys").len(), keys.len(), "without values");
}

#[tokio::test]
async fn what_follows_a_cursor_may_be_empty() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    put_names(&clients[0], &bucket, &["a", "b", "c", "dir/1"]).await;
    let pages = |query: &'static str| list(&clients[1], &bucket, query, JSON);
    let first = pages("limit=2").await;
    assert_eq!(names(&first, "keys"), ["a", "b"]);
    let folders = pages("limit=3&delimiter=/").await;
    // The cursor's own key needs not be there any more, either.
    for name in ["b", "c", "dir/1"] {
        let path = bucket.key_path(name);
        clients[2].delete(&path).await.assert_status(200);
    }
    for page in [&first, &folders] {
        let next = page.next_path().unwrap();
        for api in &clients {
            let rest = api.get(&next).header("accept", JSON).await;
            let empty = json!({"keys": [], "prefixes": [], "list_complete": true});
            assert_eq!(rest.assert_status(200).json(), empty);
            assert_eq!(rest.next_path(), None);
            let text = api.get(&next).header("accept", TEXT).await;
            text.assert_status(200).assert_empty();
        }
    }
    let without = list(&clients[3], &bucket, "after=b", JSON).await;
    without.assert_error(404, "not_found");
    put_names(&clients[0], &bucket, &["bb"]).await;
    let next = first.next_path().unwrap();
    let rest = clients[3].get(&next).header("accept", JSON).await;
    assert_eq!(names(&rest, "keys"), ["bb"], "written after the first page");
}

#[tokio::test]
async fn wrong_parameters_and_cursors_of_other_lists_are_refused() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let other = clients[0].create_bucket().await;
    for bucket in [&bucket, &other] {
        put_names(&clients[0], bucket, &["a/1", "a/2", "b"]).await;
    }
    for api in &clients {
        for query in [
            "limit=0",
            "limit=1001",
            "reverse=1",
            "reverse=",
            "values=yes",
            "delimiter=%ff",
            "start=b&end=a",
            "start=a&end=a",
            "start=b&end=a&reverse=true",
            "after=a&cursor=AQ",
            "delimiter=/&delimiter=/",
        ] {
            let page = list(api, &bucket, query, JSON).await;
            page.assert_error(400, "invalid_parameter");
        }
        for name in ["prefix", "after", "start", "end", "delimiter"] {
            let query = format!("limit=1&{name}={}", "x".repeat(1025));
            let page = list(api, &bucket, &query, JSON).await;
            page.assert_error(400, "invalid_parameter");
            assert!(
                page.text()
                    .contains(&format!("{name} must have at most 1024 bytes"))
            );
        }
        let first = list(api, &bucket, "limit=1&prefix=a&values=true", JSON).await;
        let cursor = first.json()["cursor"].as_str().unwrap().to_owned();
        for (bucket, query) in [
            (&bucket, "prefix=a&reverse=true"),
            (&bucket, "prefix=a&delimiter=/"),
            (&bucket, "prefix=a&start=a"),
            (&bucket, "prefix=a&end=b"),
            (&bucket, "prefix=a/"),
            (&other, "prefix=a"),
        ] {
            let page = list(api, bucket, &format!("{query}&cursor={cursor}"), TEXT).await;
            page.assert_error(400, "invalid_cursor");
        }
        for cursor in ["x", "%20", &cursor[1..], &format!("{cursor}=")] {
            let query = format!("prefix=a&cursor={cursor}");
            let page = list(api, &bucket, &query, JSON).await;
            page.assert_error(400, "invalid_cursor");
        }
        let query = format!("prefix=a&limit=9&colour=red&cursor={cursor}");
        let rest = list(api, &bucket, &query, TEXT).await;
        assert_eq!(rest.assert_status(200).lines(), ["a/2"]);
    }
}

#[tokio::test]
async fn buckets_are_listed_in_pages() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let first = clients[0].create_bucket().await;
    let mut buckets = vec![first.clone()];
    for number in 1..8 {
        let api = &clients[number % 4];
        buckets.push(api.create_bucket_for(&first.account, &[]).await);
    }
    let ids: Vec<String> = buckets.iter().map(|bucket| bucket.id.clone()).collect();
    let list = async |api: &ApiClient, path: &str| api.get(path).api_key(&first.account).await;
    let ids_of = |page: &HttpResponse| {
        let body = page.assert_status(200).json();
        let listed = body["buckets"].as_array().unwrap().iter();
        listed
            .map(|bucket| bucket["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (query, sizes) in [
        ("", vec![8_usize]),
        ("?limit=3", vec![3, 3, 2]),
        ("?limit=8", vec![8]),
    ] {
        let (mut path, mut pages) = (Some(format!("/buckets{query}")), vec![]);
        while let Some(next) = path {
            let page = list(&clients[pages.len() % 4], &next).await;
            path = page.next_path();
            assert_eq!(page.json()["list_complete"], path.is_none());
            assert_eq!(page.json()["cursor"].is_string(), path.is_some());
            pages.push(ids_of(&page));
            assert!(pages.len() < MAX_PAGES, "the list does not end");
        }
        assert_eq!(pages.concat(), ids);
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    }

    let page = list(&clients[3], "/buckets?limit=3").await;
    let next = page.next_path().unwrap();
    // Also the bucket that the cursor names.
    for deleted in [0, 2, 4] {
        let path = format!("{}?confirm=0", buckets[deleted].path());
        let delete = clients[0].delete(&path).api_key(&first.account).await;
        delete.assert_status(200);
    }
    let rest = list(
        &clients[3],
        &format!("{next}&limit=1000").replace("limit=3&", ""),
    )
    .await;
    assert_eq!(ids_of(&rest), [&ids[3..4], &ids[5..]].concat());

    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=1"] {
        let page = list(&clients[1], &format!("/buckets?{query}")).await;
        page.assert_error(400, "invalid_parameter");
    }
    let stranger = clients[2].create_bucket().await;
    let page = clients[3].get(&next).api_key(&stranger.account).await;
    page.assert_error(400, "invalid_cursor");
    let page = list(&clients[0], "/buckets?cursor=AQ").await;
    page.assert_error(400, "invalid_cursor");
    let anonymous = clients[1].get("/buckets?cursor=AQ").await;
    anonymous.assert_error(401, "unauthorized");
}
