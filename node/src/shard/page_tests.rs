//! Compares pages with a simple model: the live keys, sorted, and listed one by one.

use std::collections::BTreeMap;

use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};
use proptest::prelude::*;

use super::*;
use crate::shard::test_region::{BUCKET, TestRegion};

/// Time of all reads.
const NOW: Nanos = 1 << 32;
/// Maximum number of pages of a list: each has an entry, or at least one row.
const MAX_PAGES: usize = 200;

/// Last write of a key.
#[derive(Clone, Debug)]
enum LastWrite {
    Put { value: Vec<u8>, lives: bool },
    Delete,
}

fn last_write() -> impl Strategy<Value = LastWrite> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    let put = (value, proptest::bool::weighted(0.7));
    prop_oneof![
        3 => put.prop_map(|(value, lives)| LastWrite::Put { value, lives }),
        1 => Just(LastWrite::Delete),
    ]
}

fn name(pattern: &'static str) -> impl Strategy<Value = Bytes> {
    pattern.prop_map(Bytes::from)
}

fn query() -> impl Strategy<Value = ListQuery> {
    let bound = || proptest::option::of(name("[ab/é]{1,3}"));
    let delimiter = prop_oneof![
        2 => Just(""), 3 => Just("/"), 1 => Just("ab"), 1 => Just("é"), 1 => Just("//"),
    ];
    let flags = any::<(bool, bool)>();
    let limits = (1..6_usize, 0..100_usize, proptest::option::of(1..4_usize));
    let texts = (name("[ab/]{0,2}"), bound(), bound(), delimiter);
    (texts, flags, limits).prop_map(
        |((prefix, from, to, delimiter), (is_reverse, with_values), limits)| ListQuery {
            prefix,
            from,
            to,
            delimiter: Bytes::from_static(delimiter.as_bytes()),
            is_reverse,
            with_values,
            limit: limits.0,
            max_value_bytes: limits.1,
            max_rows: limits.2,
            with_index: false,
        },
    )
}

/// Creates a shard with these keys. Other regions have yet to acknowledge its deletes, so each
/// leaves a tombstone.
fn shard_of(keys: &BTreeMap<String, LastWrite>) -> TestRegion {
    let mut shard = TestRegion::new(1, false);
    let other = pb::Peer {
        region: 2,
        incarnation: 102,
    };
    shard.set_peers(1, vec![other]);
    let put = |value: &[u8], ttl| {
        Op::Put(pb::Put {
            value: Bytes::copy_from_slice(value),
            content_type: Bytes::from_static(b"text/x"),
            ttl,
            may_create: true,
            metadata: Bytes::from_static(b"{\"a\":1}"),
            ..Default::default()
        })
    };
    for (key, last) in keys {
        let ops = match last {
            LastWrite::Put { value, lives: true } if value.len() % 2 == 0 => vec![put(value, 0)],
            LastWrite::Put { value, lives: true } => vec![put(value, 2 * NOW)],
            LastWrite::Put { value, .. } => vec![put(value, 1)],
            LastWrite::Delete => vec![put(b"old", 0), Op::Delete(pb::Delete {})],
        };
        for op in ops {
            let writes = vec![pb::Write {
                bucket: Bytes::from_static(BUCKET),
                key: Bytes::copy_from_slice(key.as_bytes()),
                op: Some(op),
                condition: None,
            }];
            let time = shard.clock;
            shard.apply(Kind::Writes(pb::WriteBatch { time, writes }));
        }
    }
    shard
}

/// Lists the live keys and common prefixes of a query, all of them.
fn expected_names(keys: &BTreeMap<String, LastWrite>, query: &ListQuery) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let (prefix, delimiter) = (text(&query.prefix), text(&query.delimiter));
    let mut names: Vec<String> = Vec::new();
    for (key, last) in keys {
        let is_live = matches!(last, LastWrite::Put { lives: true, .. });
        let is_behind_start = query.from.as_ref().is_none_or(|from| *key >= text(from));
        let is_before_end = query.to.as_ref().is_none_or(|to| *key < text(to));
        let Some(rest) = key.strip_prefix(&prefix) else {
            continue;
        };
        if !(is_live && is_behind_start && is_before_end) {
            continue;
        }
        let listed = match rest.split_once(&delimiter) {
            Some((first, _)) if !delimiter.is_empty() => format!("{prefix}{first}{delimiter}"),
            _ => key.clone(),
        };
        if names.last() != Some(&listed) {
            names.push(listed);
        }
    }
    if query.is_reverse {
        names.reverse();
    }
    names
}

/// Checks a listed key against what a read of it returns.
fn check_key(view: &ShardView, info: &KeyInfo, with_values: bool) {
    let read = view.get(BUCKET, &info.key, NOW).unwrap();
    let read = read.into_value().unwrap();
    assert_eq!(info.size, read.value.len() as u64);
    assert_eq!(info.version, read.version);
    assert_eq!(info.expires_at, read.expires_at);
    assert_eq!(info.content_type, read.content_type);
    assert_eq!(info.metadata, read.metadata);
    assert_eq!(info.value, with_values.then_some(read.value));
}

/// Reads all pages of a list, and checks each; returns the names.
fn read_pages(view: &ShardView, first: &ListQuery, expected: usize) -> Vec<String> {
    let mut query = first.clone();
    let mut names = Vec::new();
    for _ in 0..MAX_PAGES {
        let page = view.page(BUCKET, &query, NOW).unwrap();
        let with_index = ListQuery {
            with_index: true,
            ..query.clone()
        };
        let indexed = Page {
            applied_index: view.recent_changes().last_index(),
            ..page.clone()
        };
        assert_eq!(view.page(BUCKET, &with_index, NOW).unwrap(), indexed);
        assert!(page.entries.len() <= query.limit);
        let (mut values, mut value_bytes) = (0, 0);
        for entry in &page.entries {
            if let ListEntry::Key(info) = entry {
                check_key(view, info, query.with_values);
                value_bytes += info.value.as_ref().map_or(0, Bytes::len);
                values += 1;
            }
            names.push(String::from_utf8(entry.name().to_vec()).unwrap());
        }
        assert!(values <= 1 || value_bytes <= query.max_value_bytes);
        if page.resume.is_none() {
            assert_eq!(page.has_more, names.len() < expected, "{page:?}");
            assert!(!page.has_more || !page.entries.is_empty());
        }
        let Some(position) = page.next_position() else {
            return names;
        };
        position.narrow(&mut query);
    }
    panic!("the list does not end: {names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pages_have_each_entry_of_the_model_once_and_in_order(
        keys in proptest::collection::btree_map("[ab/é]{1,4}", last_write(), 0..40),
        queries in proptest::collection::vec(query(), 1..16),
    ) {
        let shard = shard_of(&keys);
        for query in queries {
            let expected = expected_names(&keys, &query);
            let listed = read_pages(&shard.view(), &query, expected.len());
            prop_assert_eq!(listed, expected, "{:?}", query);
        }
    }
}

#[test]
fn common_prefixes_are_listed_once_among_the_keys_in_either_order() {
    let put = || LastWrite::Put {
        value: b"v".to_vec(),
        lives: true,
    };
    let names = ["a", "dir/1", "dir/2", "dir/sub/3", "dir0", "gone/1", "z/"];
    let mut keys: BTreeMap<_, _> = names.map(|name| (name.to_owned(), put())).into();
    keys.insert("gone/1".to_owned(), LastWrite::Delete);
    let shard = shard_of(&keys);
    let view = shard.view();
    let list = |prefix: &'static str, is_reverse| {
        let query = ListQuery {
            prefix: Bytes::from_static(prefix.as_bytes()),
            delimiter: Bytes::from_static(b"/"),
            is_reverse,
            limit: 10,
            ..ListQuery::default()
        };
        let page = view.page(BUCKET, &query, NOW).unwrap();
        let names = page.entries.iter().map(|entry| entry.name().to_vec());
        names
            .map(|name| String::from_utf8(name).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(list("", false), ["a", "dir/", "dir0", "z/"]);
    assert_eq!(list("", true), ["z/", "dir0", "dir/", "a"]);
    assert_eq!(list("dir/", false), ["dir/1", "dir/2", "dir/sub/"]);
    assert_eq!(list("d", true), ["dir0", "dir/"]);
    assert!(list("gone/", false).is_empty());
}

#[test]
fn a_page_has_the_index_of_the_last_entry_even_if_its_range_is_empty() {
    let mut shard = TestRegion::new(1, false);
    let view = shard.view();
    let range = |from: &'static [u8], to: &'static [u8]| ListQuery {
        from: Some(Bytes::from_static(from)),
        to: Some(Bytes::from_static(to)),
        limit: 10,
        with_index: true,
        ..ListQuery::default()
    };
    for query in [range(b"a", b"z"), range(b"z", b"a")] {
        shard.put(1, "value", 0);
        let page = view.page(BUCKET, &query, NOW).unwrap();
        assert_eq!(page.applied_index, shard.written_index());
    }
}

#[test]
fn a_page_ends_early_among_dead_rows_and_resumes_behind_them() {
    let keys: BTreeMap<_, _> = (0..10)
        .map(|number| (format!("k{number}"), LastWrite::Delete))
        .collect();
    let shard = shard_of(&keys);
    let view = shard.view();
    let mut query = ListQuery {
        limit: 10,
        max_rows: Some(4),
        ..ListQuery::default()
    };
    for last in ["k3", "k7"] {
        let page = view.page(BUCKET, &query, NOW).unwrap();
        assert_eq!(
            page,
            Page {
                entries: vec![],
                has_more: true,
                resume: Some(Bytes::from_static(last.as_bytes())),
                applied_index: 0,
            }
        );
        page.next_position().unwrap().narrow(&mut query);
    }
    assert_eq!(view.page(BUCKET, &query, NOW).unwrap(), Page::default());
}
