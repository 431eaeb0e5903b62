//! Lists over simple shards: sorted maps, whose pages may end early anywhere.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::types::KeyInfo;

const SHARDS: u16 = 3;
/// Maximum number of parts of a list: each goes on behind a row.
const MAX_PARTS: usize = 1000;

/// Value of each key; `None` for a tombstone.
type Rows = BTreeMap<String, Option<Vec<u8>>>;

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Returns the rows of a query's range, in its order.
fn rows_of(rows: &Rows, query: &ListQuery) -> Vec<(String, Option<Vec<u8>>)> {
    let is_in_range = |key: &str| {
        key.starts_with(&text(&query.prefix))
            && query
                .from
                .as_ref()
                .is_none_or(|from| key >= &text(from)[..])
            && query.to.as_ref().is_none_or(|to| key < &text(to)[..])
    };
    let matching = rows.iter().filter(|(key, _)| is_in_range(key));
    let mut matching: Vec<_> = matching
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if query.is_reverse {
        matching.reverse();
    }
    matching
}

/// Returns the common prefix under which a key is listed.
fn common_prefix(key: &str, query: &ListQuery) -> Option<String> {
    let (prefix, delimiter) = (text(&query.prefix), text(&query.delimiter));
    if delimiter.is_empty() {
        return None;
    }
    let (first, _) = key[prefix.len()..].split_once(&delimiter)?;
    Some(format!("{prefix}{first}{delimiter}"))
}

/// Reads a page, which ends early at so many tombstones.
fn read_page(rows: &Rows, query: &ListQuery, max_tombstones: usize) -> Page {
    let mut page = Page::default();
    let (mut tombstones, mut bytes) = (0, 0);
    for (key, value) in rows_of(rows, query) {
        let prefix = common_prefix(&key, query).map(|prefix| ListEntry::Prefix(prefix.into()));
        if prefix.is_some() && page.entries.last() == prefix.as_ref() {
            continue;
        }
        let key = Bytes::from(key);
        let Some(value) = value else {
            tombstones += 1;
            if tombstones < max_tombstones {
                continue;
            }
            page.has_more = true;
            page.resume = Some(key);
            break;
        };
        bytes += if prefix.is_none() { value.len() } else { 0 };
        let exceeds_bytes = query.with_values && bytes > query.max_value_bytes;
        if page.entries.len() >= query.limit || exceeds_bytes && !page.entries.is_empty() {
            page.has_more = true;
            break;
        }
        page.entries.push(prefix.unwrap_or_else(|| {
            ListEntry::Key(KeyInfo {
                key,
                value: query.with_values.then(|| Bytes::from(value)),
                ..KeyInfo::default()
            })
        }));
    }
    page
}

/// Lists all that matches a query, in parts, and checks each; returns the names.
fn list_all(shards: &[Rows], first: &ListQuery, max_tombstones: usize) -> Vec<String> {
    let mut query = first.clone();
    let mut names = Vec::new();
    for _ in 0..MAX_PARTS {
        let fetch = |shard: u16, query: ListQuery| {
            let page = read_page(&shards[usize::from(shard)], &query, max_tombstones);
            std::future::ready(Ok::<_, KeyError>(page))
        };
        let listing = list(0..SHARDS, query.clone(), fetch).now_or_never();
        let listing = listing.unwrap().unwrap();
        assert!(listing.entries.len() <= query.limit);
        let bytes: usize = listing.entries.iter().map(value_bytes).sum();
        assert!(listing.entries.len() <= 1 || bytes <= query.max_value_bytes);
        names.extend(listing.entries.iter().map(|entry| text(entry.name())));
        let Some(next) = listing.next else {
            return names;
        };
        next.narrow(&mut query);
    }
    panic!("the list does not end: {names:?}");
}

/// Lists all that matches a query, from all shards at once.
fn expected_names(shards: &[Rows], query: &ListQuery) -> Vec<String> {
    let all: Rows = shards
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let rows = rows_of(&all, query).into_iter();
    let live = rows.filter(|(_, value)| value.is_some());
    let names = live.map(|(key, _)| common_prefix(&key, query).unwrap_or(key));
    let mut names: Vec<String> = names.collect();
    names.dedup();
    names
}

fn query() -> impl Strategy<Value = ListQuery> {
    let bound = || proptest::option::of("[ab/]{1,3}".prop_map(Bytes::from));
    let delimiter = prop_oneof![2 => Just(""), 3 => Just("/"), 1 => Just("ab")];
    let texts = ("[ab/]{0,1}", bound(), bound(), delimiter);
    let limits = (1..40_usize, 0..200_usize);
    (texts, any::<(bool, bool)>(), limits).prop_map(
        |((prefix, from, to, delimiter), (is_reverse, with_values), limits)| ListQuery {
            prefix: Bytes::from(prefix),
            from,
            to,
            delimiter: Bytes::from_static(delimiter.as_bytes()),
            is_reverse,
            with_values,
            limit: limits.0,
            max_value_bytes: limits.1,
            max_rows: None,
            with_index: false,
        },
    )
}

proptest! {
    #[test]
    fn a_list_has_each_entry_of_all_shards_once_and_in_order(
        rows in proptest::collection::btree_map(
            "[ab/]{1,6}",
            (0..SHARDS, proptest::option::weighted(0.6, proptest::collection::vec(0..9_u8, 0..20))),
            0..120,
        ),
        query in query(),
        max_tombstones in 1..6_usize,
    ) {
        let mut shards = vec![Rows::new(); usize::from(SHARDS)];
        for (key, (shard, value)) in rows {
            shards[usize::from(shard)].insert(key, value);
        }
        let listed = list_all(&shards, &query, max_tombstones);
        prop_assert_eq!(listed, expected_names(&shards, &query));
    }
}

#[test]
fn a_list_among_tombstones_ends_early_and_goes_on() {
    let tombstones = |range: Range<u32>| -> Rows {
        range
            .map(|number| (format!("k{number:04}"), None))
            .collect()
    };
    let mut shards = vec![tombstones(0..100), tombstones(100..200), Rows::new()];
    shards[2].insert("k0050".to_owned(), Some(vec![1]));
    shards[2].insert("k0150".to_owned(), Some(vec![1]));
    let query = ListQuery {
        limit: 10,
        ..ListQuery::default()
    };
    let fetch = |shard: u16, query: ListQuery| {
        let page = read_page(&shards[usize::from(shard)], &query, 1);
        std::future::ready(Ok::<_, KeyError>(page))
    };
    let listing = list(0..SHARDS, query.clone(), fetch).now_or_never();
    let listing = listing.unwrap().unwrap();
    assert!(listing.entries.is_empty() && listing.next.is_some());
    assert_eq!(list_all(&shards, &query, 1), ["k0050", "k0150"]);
}

#[test]
fn pages_are_shares_of_the_limits() {
    let query = ListQuery {
        limit: 1000,
        max_value_bytes: 4 << 20,
        ..ListQuery::default()
    };
    let page = page_query(&query, 4);
    assert_eq!((page.limit, page.max_value_bytes), (258, 1 << 20));
    let with_delimiter = ListQuery {
        delimiter: Bytes::from_static(b"/"),
        ..query
    };
    assert_eq!(page_query(&with_delimiter, 4).limit, 1000);
    assert_eq!(page_query(&with_delimiter, 64).limit, 192);
}
