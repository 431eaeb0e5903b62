//! Streams over real shards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, write::Op};

use super::end::WatchEnd;
use super::event::WatchEvent;
use super::stream::WatchItem;
use super::test_client::{TestClient, events, next, ready, reset};
use super::test_node::{HISTORY, SHARDS, TestNode};
use super::token::{RegionHistory, ResumeToken};
use crate::service::read_changes::wait_for_changes;
use crate::shard::ChangesRange;
use crate::types::{Access, KeyChangeKind, KeyFilter};

/// Memory that holds all changes of a test.
const LARGE_MEMORY: usize = 4 << 20;
/// Memory that a change of a [`long_key`] doesn't fit into.
const SMALL_MEMORY: usize = 1000;

fn long_key() -> String {
    "k".repeat(2 * SMALL_MEMORY)
}

/// Identifies a change: its key, and the index of its entry.
fn changes_of(events: &[Arc<WatchEvent>]) -> Vec<(Bytes, u64)> {
    let changes = events.iter().map(|event| &event.change);
    let mut changes: Vec<_> = changes.map(|it| (it.key.clone(), it.index)).collect();
    changes.sort();
    changes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_from_each_of_its_tokens() {
    let node = TestNode::start(LARGE_MEMORY).await;
    node.put("before", "1").await;
    let mut stream = node.watches.start(node.request(None)).unwrap();
    let token = ready(&mut stream).await;
    for key in ["a", "b", "c", "d"] {
        node.put(key, "1").await;
    }
    node.delete("a").await;
    let told = events(&mut stream, 5).await;
    assert_eq!(told.len(), 5);
    let kinds = told
        .iter()
        .filter(|it| it.change.kind == KeyChangeKind::Deleted);
    assert_eq!(kinds.count(), 1);
    let tokens = [&token[..]]
        .into_iter()
        .chain(told.iter().map(|event| &event.token[..]));
    for (count, token) in tokens.enumerate() {
        let mut resumed = node.watches.start(node.request(Some(token))).unwrap();
        let missed = events(&mut resumed, told.len() - count).await;
        assert_eq!(changes_of(&missed), changes_of(&told[count..]));
        ready(&mut resumed).await;
    }
    let status = node.watches.status();
    assert_eq!((status.watchers, status.watched_buckets), (1, 1));
    assert!(status.ended.contains(&("closed", 6)));
    drop(stream);
    let status = node.watches.status();
    assert_eq!((status.watchers, status.buffered_bytes), (0, 0));
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_comes_first_and_changes_meanwhile_in_order() {
    let node = TestNode::start(LARGE_MEMORY).await;
    let keys: Vec<String> = (0..2000).map(|number| format!("key-{number:04}")).collect();
    let mut client = TestClient::default();
    client.connect(&node);
    assert!(client.take().await, "there is nothing but ready");
    node.put_all(&keys, "1").await;
    client.catch_up(&node).await;
    let mut client = TestClient::default();
    client.connect(&node);
    let mut is_ready = client.take().await;
    let mut round = 0;
    while !is_ready {
        // Some of them were told already, and some were not.
        for key in keys.iter().skip(round).step_by(400) {
            node.put(key, "2").await;
        }
        for key in keys.iter().skip(round + 100).step_by(500) {
            node.delete(key).await;
        }
        round += 1;
        is_ready = client.take().await;
    }
    assert!(
        round > usize::from(SHARDS),
        "each shard has more than a page"
    );
    client.catch_up(&node).await;
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_connects_again_and_again_has_what_the_bucket_has() {
    let node = TestNode::start(LARGE_MEMORY).await;
    let mut client = TestClient::default();
    client.connect(&node);
    let mut random = 1_u64;
    for _ in 0..300 {
        // xorshift
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = format!("key-{}", random % 7);
        match (random >> 32) & 7 {
            0 => client.connect(&node),
            1 | 2 => node.delete(&key).await,
            3 => {
                let written = node.content().await;
                if client.keys != written {
                    client.take().await;
                }
            }
            _ => node.put(&key, "1").await,
        }
    }
    client.catch_up(&node).await;
    client.connect(&node);
    while !client.take().await {}
    assert_eq!(client.keys, node.content().await);
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_history_is_answered_by_a_reset() {
    let node = TestNode::start(LARGE_MEMORY).await;
    node.put("a", "1").await;
    let id = node.bucket.id;
    let (region, incarnation) = HISTORY;
    let [same, other] = [incarnation, incarnation + 1].map(|incarnation| RegionHistory {
        region,
        incarnation,
    });
    let shards = usize::from(SHARDS);
    let unusable = [
        ResumeToken::new(&id, other, vec![1; shards]),
        ResumeToken::new(&id, same, vec![1; shards + 1]),
    ];
    for token in unusable.map(|token| token.to_string()) {
        let mut stream = node.watches.start(node.request(Some(&token))).unwrap();
        let token = reset(&mut stream).await;
        assert_eq!(ready(&mut stream).await, token);
    }
    // With what there is, the client is told to begin with nothing, also if it connects again
    // before it was told all.
    let mut token = ResumeToken::new(&id, other, Vec::new()).to_string();
    for _ in 0..2 {
        let mut request = node.request(Some(&token));
        request.initial = true;
        let mut stream = node.watches.start(request).unwrap();
        token = reset(&mut stream).await;
        match next(&mut stream).await {
            WatchItem::Initial { keys, token: same } => {
                assert_eq!((keys.len(), &same[..]), (1, &token[..]));
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(ready(&mut stream).await, token);
    }
    assert_eq!(node.watches.status().resets, 4);
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_changes_are_told_by_a_reset() {
    let node = TestNode::start(SMALL_MEMORY).await;
    let mut live = node.watches.start(node.request(None)).unwrap();
    let token = ready(&mut live).await;
    let mut request = node.request(None);
    request.initial = true;
    let mut live_initial = node.watches.start(request).unwrap();
    ready(&mut live_initial).await;
    node.put(&long_key(), "1").await;
    // Streams that follow go on, from now on or with what there is.
    reset(&mut live).await;
    ready(&mut live).await;
    reset(&mut live_initial).await;
    assert!(matches!(
        next(&mut live_initial).await,
        WatchItem::Initial { .. }
    ));
    // So do those that come back.
    let mut stream = node.watches.start(node.request(Some(&token))).unwrap();
    reset(&mut stream).await;
    ready(&mut stream).await;
    node.put("a", "1").await;
    for stream in [&mut live, &mut stream] {
        assert_eq!(events(stream, 1).await[0].change.key, "a");
    }
    let mut client = TestClient {
        token: Some(token),
        ..TestClient::default()
    };
    client.connect(&node);
    client.catch_up(&node).await;
    assert_eq!(client.keys.len(), 2);
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_those_of_the_told_versions() {
    let node = TestNode::start(LARGE_MEMORY).await;
    let mut request = node.request(None);
    request.with_values = true;
    let mut live = node.watches.start(request.clone()).unwrap();
    let token = ready(&mut live).await;
    let large = "x".repeat(200 << 10);
    for value in ["1", &large] {
        node.put("a", value).await;
        let told = events(&mut live, 1).await;
        assert_eq!(
            told[0].value().map(|value| &value[..]),
            Some(value.as_bytes())
        );
    }
    node.put("b", "").await;
    assert_eq!(events(&mut live, 1).await[0].value(), Some(&Bytes::new()));
    // The first put of a key is left out: its value is gone.
    request.since = Some(ResumeToken::parse(&token, &node.bucket.id).unwrap());
    let mut resumed = node.watches.start(request.clone()).unwrap();
    let mut told = events(&mut resumed, 2).await;
    ready(&mut resumed).await;
    told.sort_by(|one, other| one.change.key.cmp(&other.change.key));
    let values = told.iter().map(|event| event.value().unwrap().len());
    assert_eq!(values.collect::<Vec<_>>(), [large.len(), 0]);
    request.since = None;
    request.initial = true;
    let mut initial = node.watches.start(request).unwrap();
    let mut sizes = Vec::new();
    while let WatchItem::Initial { keys, .. } = next(&mut initial).await {
        sizes.extend(keys.into_iter().map(|key| key.value.unwrap().len()));
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [0, large.len()]);
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_keys_of_the_filter_are_told() {
    let node = TestNode::start(LARGE_MEMORY).await;
    for key in ["a", "ab", "b"] {
        node.put(key, "1").await;
    }
    let key = |name: &'static str| KeyFilter::Key(Bytes::from_static(name.as_bytes()));
    let prefix = |name: &'static str| KeyFilter::Prefix(Bytes::from_static(name.as_bytes()));
    let filters = [
        (key("a"), vec!["a"]),
        (key("abc"), vec![]),
        (prefix("a"), vec!["a", "ab"]),
        (prefix("c"), vec![]),
    ];
    for (filter, expected) in filters {
        let mut request = node.request(None);
        request.filter = filter;
        request.initial = true;
        let mut stream = node.watches.start(request).unwrap();
        let mut names = Vec::new();
        while let WatchItem::Initial { keys, .. } = next(&mut stream).await {
            names.extend(keys.into_iter().map(|key| key.key));
        }
        names.sort();
        assert_eq!(names, expected);
    }
    let mut request = node.request(None);
    request.filter = key("b");
    let mut stream = node.watches.start(request).unwrap();
    ready(&mut stream).await;
    for key in ["bb", "a", "b"] {
        node.put(key, "2").await;
    }
    assert_eq!(events(&mut stream, 1).await[0].change.key, "b");
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_expiry_of_a_key_is_told() {
    let node = TestNode::start(LARGE_MEMORY).await;
    let mut stream = node.watches.start(node.request(None)).unwrap();
    ready(&mut stream).await;
    let put = pb::Put {
        ttl: 50_000_000,
        may_create: true,
        ..pb::Put::default()
    };
    node.write("a", Op::Put(put)).await;
    let told = events(&mut stream, 2).await;
    let [put, expired] = [&told[0].change, &told[1].change];
    assert!(matches!(put.kind, KeyChangeKind::Put(_)));
    assert_eq!(expired.kind, KeyChangeKind::Expired);
    assert_eq!(put.version, expired.version);
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_their_bucket_its_access_mode_and_the_node() {
    let node = TestNode::start(LARGE_MEMORY).await;
    let ends = [
        (None, WatchEnd::BucketDeleted),
        (Some(Access::Protected), WatchEnd::AccessChanged),
    ];
    for (access, expected) in ends {
        node.set_access(Some(Access::Public));
        let mut stream = node.watches.start(node.request(None)).unwrap();
        ready(&mut stream).await;
        node.set_access(access);
        let WatchItem::End(end) = next(&mut stream).await else {
            panic!("there is nothing else to tell");
        };
        assert_eq!(end, expected);
        let refused = node.watches.start(node.request(None)).err();
        assert_eq!(refused, Some(expected));
    }
    node.set_access(Some(Access::Public));
    let mut joined = node.watches.start(node.request(None)).unwrap();
    ready(&mut joined).await;
    let mut waiting = node.watches.start(node.request(None)).unwrap();
    node.watches.drain();
    for stream in [&mut joined, &mut waiting] {
        let item = next(stream).await;
        assert!(
            matches!(item, WatchItem::End(WatchEnd::Draining)),
            "{item:?}"
        );
    }
    let refused = node.watches.start(node.request(None)).err();
    assert_eq!(refused, Some(WatchEnd::Draining));
    let status = node.watches.status();
    assert!(status.ended.contains(&("draining", 2)));
    assert!(status.refused.contains(&("draining", 1)));
    node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_a_change_but_not_for_what_is_complete() {
    let node = TestNode::start(LARGE_MEMORY).await;
    node.put("a", "1").await;
    let id = node.bucket.id;
    let shard = node.shards.local(node.shards.shard_of(&id, b"a")).unwrap();
    let changes = shard.view().recent_changes();
    let last = changes.last_index();
    let for_ever = Duration::from_secs(3600);
    let other = KeyFilter::Key(Bytes::from_static(b"other"));
    let none = ChangesRange {
        after: last - 1,
        up_to: last,
        bucket: Some(&id),
        filter: Some(&other),
        limit: 10,
    };
    let page = wait_for_changes(changes, &none, for_ever).await.unwrap();
    assert_eq!((page.changes.len(), page.up_to), (0, last));
    let next_change = ChangesRange {
        after: last,
        up_to: u64::MAX,
        filter: None,
        ..none
    };
    let (page, ()) = tokio::join!(
        wait_for_changes(changes, &next_change, for_ever),
        node.put("a", "2"),
    );
    let page = page.unwrap();
    assert_eq!(page.changes[0].key, "a");
    assert!(page.changes[0].index > last);
    node.shut_down().await;
}
