//! Watching a bucket: what there is at the start, and going on where another stream ended.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use cloudkv_test_harness::batches::{self, OK};
use cloudkv_test_harness::watch::{EventRequest, EventStream, WatchOptions, list_bucket};
use cloudkv_test_harness::{Bucket, NodeLease, SharedNode};
use serde_json::Value;

static NODE: SharedNode = SharedNode::new();

fn watch(node: &NodeLease, bucket: &Bucket, query: &str) -> EventRequest {
    EventRequest::to_bucket(node.http(), bucket, query)
}

/// Reads the `put` events before `ready`.
async fn initial_puts(stream: &mut EventStream) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    loop {
        let event = stream.next_event().await.expect("ready comes");
        assert!(event.has_id, "{event:?}");
        if event.name == "ready" {
            return keys;
        }
        assert_eq!(event.name, "put", "{event:?}");
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let name = data["name"].as_str().expect("a name").to_owned();
        let other = keys.insert(name, data);
        assert_eq!(other, None, "once each");
    }
}

#[tokio::test]
async fn initial_tells_what_there_is_before_ready() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let key_path = format!("{}?initial=true", bucket.key_path("k07"));
    let mut of_key = EventRequest::new(node.http(), &key_path).open_ready().await;
    let mut of_all = watch(&node, &bucket, "?initial=true").open_ready().await;
    let puts: Vec<Value> = (0..300)
        .map(|number| batches::put(&format!("k{number:03}"), "v"))
        .chain([batches::put("k07", "v"), batches::put("deleted", "v")])
        .collect();
    let outcomes = batches::execute(&api, &bucket, &puts).await;
    assert!(batches::statuses(&outcomes).iter().all(|it| *it == OK));
    assert_eq!(of_key.expect_data("put").await["name"], "k07");
    assert_eq!(of_all.take_by_name(puts.len()).await.len(), 302);
    let deletion = api.delete(&bucket.key_path("deleted")).await;
    deletion.assert_status(200);

    for (query, prefix, has_values) in [
        ("?initial=true", "", false),
        ("?initial=true&values=true", "", true),
        ("?initial=true&values=true&prefix=k00", "k00", true),
        ("?initial=true&prefix=none", "none", false),
    ] {
        let mut stream = watch(&node, &bucket, query).open().await;
        let told = initial_puts(&mut stream).await;
        let options = WatchOptions {
            prefix: prefix.to_owned(),
            has_values,
            ..WatchOptions::new(&[], &bucket)
        };
        let listed = list_bucket(&api, &options).await.unwrap();
        assert_eq!(told, listed, "{query}");
    }
    let mut of_key = EventRequest::new(node.http(), &key_path).open().await;
    let told = initial_puts(&mut of_key).await;
    assert_eq!(told["k07"], api.listed_key(&bucket, "k07").await);
    assert_eq!(told.len(), 1);
    let deletion = api.delete(&bucket.key_path("k07")).await;
    deletion.assert_status(200);
    assert_eq!(of_key.expect_data("delete").await["name"], "k07");
}

/// Reads what a stream tells before `ready`: the last event of each key, with its version.
async fn missed(stream: &mut EventStream) -> BTreeMap<String, (String, String)> {
    let mut last = BTreeMap::new();
    loop {
        let event = stream.next_event().await.expect("ready comes");
        if event.name == "ready" {
            return last;
        }
        assert_ne!(event.name, "reset", "{event:?}");
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let text = |field: &str| data[field].as_str().expect("a text").to_owned();
        last.insert(text("name"), (event.name, text("version")));
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_another_ended() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut first = watch(&node, &bucket, "").open_ready().await;
    let begin = first.last_event_id().unwrap().to_owned();
    let put = async |name: &str| {
        let put = api.put(&bucket.key_path(name), "v").await;
        put.assert_status(200).etag().trim_matches('"').to_owned()
    };
    let mut versions = vec![];
    for name in ["a", "b", "c"] {
        versions.push(put(name).await);
        first.expect("put").await;
    }
    let middle = first.last_event_id().unwrap().to_owned();
    drop(first);

    // While nobody watches.
    let changed = put("a").await;
    api.delete(&bucket.key_path("b")).await.assert_status(200);
    let added = put("d").await;
    let since = |token: &str| format!("?since={token}");
    let put_event = |version: &str| ("put".to_owned(), version.to_owned());
    let mut end = String::new();
    for request in [
        watch(&node, &bucket, "").last_event_id(&middle),
        watch(&node, &bucket, &since(&middle)),
        // Only what was missed.
        watch(&node, &bucket, "?initial=true").last_event_id(&middle),
        // The header wins.
        watch(&node, &bucket, &since(&begin)).last_event_id(&middle),
        watch(&node, &bucket, &since("malformed")).last_event_id(&middle),
    ] {
        let mut stream = request.open().await;
        let mut told = missed(&mut stream).await;
        // What the node is yet to tell comes after ready.
        while told.len() < 3 {
            let event = stream.next_event().await.expect("an event");
            let data: Value = serde_json::from_str(&event.data).unwrap();
            let text = |field: &str| data[field].as_str().unwrap().to_owned();
            told.insert(text("name"), (event.name, text("version")));
        }
        assert_eq!(told["a"], put_event(&changed), "{request:?}");
        assert_eq!(told["d"], put_event(&added), "{request:?}");
        assert_eq!(told["b"].0, "delete", "{request:?}");
        assert!(told["b"].1 > versions[1], "{told:?}");
        stream.last_event_id().unwrap().clone_into(&mut end);
    }

    // From the first token on, all is told again; from the last one on, nothing is.
    let mut stream = watch(&node, &bucket, &since(&begin)).open().await;
    let told = missed(&mut stream).await;
    assert_eq!(told["c"], put_event(&versions[2]));
    assert_eq!(told.len(), 4, "{told:?}");
    let mut stream = watch(&node, &bucket, &since(&end)).open().await;
    assert_eq!(missed(&mut stream).await, BTreeMap::new());
    // Of a prefix, or of a key, only its own.
    let of_prefix = watch(&node, &bucket, &format!("{}&prefix=d", since(&begin)));
    let told = missed(&mut of_prefix.open().await).await;
    assert_eq!(told, BTreeMap::from([("d".to_owned(), put_event(&added))]));
    let of_key = EventRequest::new(node.http(), &bucket.key_path("a")).last_event_id(&begin);
    let told = missed(&mut of_key.open().await).await;
    let expected = BTreeMap::from([("a".to_owned(), put_event(&changed))]);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn every_token_leads_to_all_that_came_after_it() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut stream = watch(&node, &bucket, "").open_ready().await;
    let mut tokens = vec![stream.last_event_id().unwrap().to_owned()];
    let mut told = vec![];
    for round in 0..3 {
        let puts: Vec<Value> = (0..16)
            .map(|number| batches::put(&format!("k{number}"), &round.to_string()))
            .collect();
        batches::execute(&api, &bucket, &puts).await;
        for _ in &puts {
            let event = stream.expect("put").await;
            let data: Value = serde_json::from_str(&event.data).unwrap();
            told.push((data["name"].clone(), data["version"].clone()));
            tokens.push(event.last_event_id);
        }
    }
    for (position, token) in tokens.iter().enumerate() {
        let request = watch(&node, &bucket, "").last_event_id(token);
        let again = missed(&mut request.open().await).await;
        for (name, version) in &told[position..] {
            let (_, last) = &again[name.as_str().unwrap()];
            assert!(
                last.as_str() >= version.as_str().unwrap(),
                "{name} behind {position}"
            );
        }
    }
}
