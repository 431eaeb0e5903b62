//! Blocks of events.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;
use crate::service::{BucketId, Version, WatchEnd};

const VERSION: Version = Version {
    time: 1_574_287_932_123_456_000,
    region: 2,
};

fn change_of(key: &str, kind: KeyChangeKind) -> KeyChange {
    KeyChange {
        index: 7,
        bucket: BucketId::parse(b"aArigQkIoMOGqG").unwrap(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: VERSION,
        kind,
    }
}

fn put(key: &str) -> KeyChange {
    let details = PutDetails {
        size: 3,
        expires_at: Some(1_600_000_000_000_000_000),
        content_type: Bytes::from_static(b"text/plain"),
        metadata: Bytes::from_static(b"{\"color\":\"red\"}"),
    };
    change_of(key, KeyChangeKind::Put(details))
}

fn event(change: KeyChange, token: &str) -> Arc<WatchEvent> {
    Arc::new(WatchEvent::unbuffered(change, token.into()))
}

/// Splits a block into the name and the ID of its event, and its data.
fn parse(block: &str) -> (&str, &str, Value) {
    let rest = block.strip_prefix("event: ").unwrap();
    let (name, rest) = rest.split_once("\nid: ").unwrap();
    let (id, data) = rest.split_once("\ndata: ").unwrap();
    assert_eq!(data.lines().count(), 1, "{data}");
    (name, id, serde_json::from_str(data).unwrap())
}

/// Renders an item as text, without values.
fn rendered(item: &WatchItem) -> String {
    let chunk = super::item(item, false, &HeaderValue::from_static("eu"));
    String::from_utf8(chunk.to_vec()).unwrap()
}

#[test]
fn a_put_has_the_fields_of_a_list() {
    let block = change(&put("a/ü\""), None, "AQ", false);
    let block = std::str::from_utf8(&block).unwrap();
    let block = block.strip_suffix("\n\n").unwrap();
    let (name, id, data) = parse(block);
    assert_eq!((name, id), ("put", "AQ"));
    let expected = json!({
        "name": "a/ü\"",
        "size": 3,
        "version": etag::text(VERSION),
        "modified_at": "2019-11-20T22:12:12.123456Z",
        "expires_at": "2020-09-13T12:26:40.000000Z",
        "content_type": "text/plain",
        "metadata": {"color": "red"},
    });
    assert_eq!(data, expected);
}

#[test]
fn values_come_with_those_who_want_them() {
    for (value, field, expected) in [
        (&b"a\nb"[..], "value", "a\nb"),
        (&b"\xff\xfe"[..], "value_base64", "//4="),
    ] {
        let value = Bytes::from_static(value);
        let with = change(&put("k"), Some(&value), "AQ", true);
        let text = std::str::from_utf8(&with).unwrap();
        assert_eq!(parse(text.trim_end()).2[field], expected);
        let without = change(&put("k"), Some(&value), "AQ", false);
        let text = std::str::from_utf8(&without).unwrap();
        assert_eq!(parse(text.trim_end()).2.get(field), None);
    }
}

#[test]
fn removals_have_a_name_and_a_version() {
    let kinds = [
        (KeyChangeKind::Deleted, "delete"),
        (KeyChangeKind::Expired, "expire"),
    ];
    for (kind, name) in kinds {
        let block = change(&change_of("k", kind), None, "AQ", true);
        let version = etag::text(VERSION);
        let expected = format!(
            "event: {name}\nid: AQ\ndata: {{\"name\":\"k\",\"version\":\"{version}\"}}\n\n"
        );
        assert_eq!(block, expected);
    }
    let dropped = change_of("", KeyChangeKind::BucketDropped);
    assert!(change(&dropped, None, "AQ", false).is_empty());
}

#[test]
fn events_of_an_item_are_joined_in_their_order() {
    let events = vec![
        event(put("a"), "A1"),
        event(change_of("b", KeyChangeKind::Deleted), "A2"),
    ];
    let text = rendered(&WatchItem::Events(events.clone()));
    let blocks: Vec<_> = text.split_terminator("\n\n").map(parse).collect();
    let names: Vec<_> = blocks.iter().map(|(name, id, _)| (*name, *id)).collect();
    assert_eq!(names, [("put", "A1"), ("delete", "A2")]);
    // Each is rendered once.
    let again = events[0].rendered(false, |_| panic!("rendered twice"));
    assert!(text.as_bytes().starts_with(&again));
}

#[test]
fn what_there_is_comes_as_puts() {
    let key = |name: &'static str| KeyInfo {
        key: Bytes::from_static(name.as_bytes()),
        size: 1,
        version: VERSION,
        ..KeyInfo::default()
    };
    let keys = vec![key("a"), key("b")];
    let token: Arc<str> = "Ag".into();
    let text = rendered(&WatchItem::Initial { keys, token });
    let names = text.split_terminator("\n\n").map(|block| {
        let (name, id, data) = parse(block);
        assert_eq!((name, id), ("put", "Ag"));
        data["name"].as_str().unwrap().to_owned()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn other_items_have_their_blocks() {
    let token = || Arc::<str>::from("AQ");
    assert_eq!(
        rendered(&WatchItem::Ready { token: token() }),
        "event: ready\nid: AQ\ndata: {\"region\":\"eu\"}\n\n"
    );
    let reset = rendered(&WatchItem::Reset { token: token() });
    let (name, id, data) = parse(reset.trim_end());
    assert_eq!((name, id), ("reset", "AQ"));
    assert!(data["reason"].is_string());
    // It has no data, so it isn't an event.
    let position = rendered(&WatchItem::Position { token: token() });
    assert_eq!(position, ":\nid: AQ\n\n");
    let end = rendered(&WatchItem::End(WatchEnd::BucketDeleted));
    assert_eq!(end, ": the bucket was deleted\nretry: 1000\n");
}

proptest! {
    #[test]
    fn a_block_is_three_lines_whatever_a_key_holds(
        name in any::<String>(),
        value in any::<Vec<u8>>(),
        content_type in any::<Vec<u8>>(),
    ) {
        let details = PutDetails {
            size: value.len() as u64,
            content_type: content_type.into(),
            ..PutDetails::default()
        };
        let put = change_of(&name, KeyChangeKind::Put(details));
        let block = change(&put, Some(&value.into()), "AQ", true);
        let text = std::str::from_utf8(&block).unwrap();
        let lines = text.bytes().filter(|byte| *byte == b'\n').count();
        prop_assert!(lines == 4 && !text.contains('\r') && text.ends_with("\n\n"));
        let (_, _, data) = parse(text.trim_end_matches('\n'));
        prop_assert_eq!(data["name"].as_str(), Some(&*name));
    }
}
