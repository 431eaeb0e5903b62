//! Queries of lists, and the positions from which they go on.

use super::*;

fn bucket() -> BucketId {
    BucketId::parse(b"aArigQkIoMOGqG").unwrap()
}

fn parse(text: &str) -> Result<ListRequest<'_>, &'static str> {
    let request = ListRequest::parse(&bucket(), Query::new(Some(text)));
    request.map_err(|error| error.code())
}

fn bytes(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

#[test]
fn parameters_have_defaults() {
    for text in [
        "",
        "prefix=&after=&cursor=&start=&end=&delimiter=",
        "colour=red",
    ] {
        let request = parse(text).unwrap();
        let expected = ListQuery {
            limit: MAX_LISTED_ENTRIES,
            max_value_bytes: MAX_VALUE_BYTES,
            ..ListQuery::default()
        };
        assert_eq!((request.query, request.has_cursor), (expected, false));
    }
}

#[test]
fn parameters_become_the_query() {
    let text = "prefix=a%2F&limit=7&start=a/b&end=a/z&delimiter=/&reverse=true&values=true";
    let expected = ListQuery {
        prefix: Bytes::from_static(b"a/"),
        from: bytes("a/b"),
        to: bytes("a/z"),
        delimiter: Bytes::from_static(b"/"),
        is_reverse: true,
        with_values: true,
        limit: 7,
        max_value_bytes: MAX_VALUE_BYTES,
        max_rows: None,
        with_index: false,
    };
    assert_eq!(parse(text).unwrap().query, expected);
    let query = parse("after=b&start=a&end=c&reverse=false").unwrap().query;
    assert_eq!((query.from, query.to), (bytes("b\0"), bytes("c")));
    let query = parse("after=b&start=a&end=c&reverse=true").unwrap().query;
    assert_eq!((query.from, query.to), (bytes("a"), bytes("b")));
}

#[test]
fn a_common_prefix_is_listed_only_behind_after() {
    let from = |text| parse(text).unwrap().query.from;
    for (text, expected) in [
        ("delimiter=/&after=dir", "dir\0"),
        ("delimiter=/&after=dir/", "dir0"),
        ("delimiter=/&after=dir/5/6", "dir0"),
        ("delimiter=/&after=dir/5&start=dir/9", "dir0"),
        ("delimiter=/&after=dir/5&start=e", "e"),
        ("delimiter=/&after=dir/5&prefix=dir/", "dir/5\0"),
        ("delimiter=/&after=dir/5/6&prefix=dir/", "dir/50"),
        ("delimiter=r/&after=dir/5&prefix=di", "dir0"),
        ("delimiter=/&after=dir/5&prefix=e", "dir/5\0"),
        ("after=dir/5", "dir/5\0"),
    ] {
        assert_eq!(from(text), bytes(expected), "{text}");
    }
    let query = parse("delimiter=/&after=dir/5&reverse=true").unwrap().query;
    assert_eq!((query.from, query.to), (None, bytes("dir/5")));
}

/// Returns the names on the first page of a query, of these keys.
fn page<'a>(keys: &[&'a str], query: &ListQuery) -> Vec<&'a str> {
    let is_in_range = |key: &&str| {
        let key = key.as_bytes();
        let is_behind_start = query.from.as_ref().is_none_or(|from| key >= &from[..]);
        let is_before_end = query.to.as_ref().is_none_or(|to| key < &to[..]);
        key.starts_with(&query.prefix) && is_behind_start && is_before_end
    };
    let keys = keys.iter().copied().filter(is_in_range);
    let names = keys.map(|key| {
        let prefix = query.common_prefix(key.as_bytes());
        &key[..prefix.map_or(key.len(), <[u8]>::len)]
    });
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    if query.is_reverse {
        names.reverse();
    }
    names.dedup();
    names.truncate(query.limit);
    names
}

#[test]
fn a_client_that_goes_on_behind_its_last_line_reads_each_line_once() {
    let keys = [
        "a",
        "dir",
        "dir/",
        "dir/1",
        "dir/2",
        "dir/sub/3",
        "dir0",
        "z/1",
        "z/2",
    ];
    for (prefix, mut expected) in [
        ("", vec!["a", "dir", "dir/", "dir0", "z/"]),
        ("d", vec!["dir", "dir/", "dir0"]),
        ("dir/", vec!["dir/", "dir/1", "dir/2", "dir/sub/"]),
    ] {
        for reverse in ["false", "true"] {
            for limit in 1..=3 {
                let list = format!("prefix={prefix}&delimiter=/&limit={limit}&reverse={reverse}");
                let mut lines: Vec<&str> = Vec::new();
                loop {
                    let after = lines.last().copied().unwrap_or_default();
                    let text = format!("{list}&after={after}");
                    let next = page(&keys, &parse(&text).unwrap().query);
                    if next.is_empty() {
                        break;
                    }
                    lines.extend(next);
                    assert!(lines.len() <= expected.len(), "{text}: {lines:?}");
                }
                assert_eq!(lines, expected, "{list}");
            }
            expected.reverse();
        }
    }
}

#[test]
fn texts_are_bounded() {
    for name in ["prefix", "after", "start", "end", "delimiter"] {
        let longest = format!("{name}={}", "%C3%A9".repeat(512));
        assert!(parse(&longest).is_ok(), "{name}");
        let too_long = longest + "x";
        let error = ListRequest::parse(&bucket(), Query::new(Some(&too_long))).unwrap_err();
        assert_eq!(error.code(), "invalid_parameter", "{name}");
        let message = format!("{name} must have at most 1024 bytes");
        assert_eq!(error.into_message(), message);
    }
}

#[test]
fn the_longest_link_can_be_followed() {
    let text = |last: &str| "%C3%A9".repeat(511) + last;
    let list = format!(
        "prefix={}&start={}&end={}&delimiter={}&limit=1000&reverse=false&values=true",
        text("%C3%A8"),
        text("%C3%A8"),
        text("%C3%A9"),
        text("%C3%A9"),
    );
    let request = parse(&list).unwrap();
    let key = ListPosition::Key(Bytes::from(vec![b'x'; MAX_LIST_PARAMETER_BYTES]));
    let link = request.next_link(&bucket(), &request.cursor(&key)).unwrap();
    assert!(link.len() < 16 << 10, "{}", link.len());
    let link = link.to_str().unwrap();
    let query = link.strip_suffix(">; rel=\"next\"").unwrap();
    let (_, query) = query.split_once('?').unwrap();
    assert!(parse(query).unwrap().has_cursor);
}

#[test]
fn wrong_parameters_are_refused() {
    for text in [
        "limit=0",
        "limit=1001",
        "limit=",
        "reverse=",
        "reverse=1",
        "values=yes",
        "start=b&end=a",
        "start=a&end=a",
        "start=a&start=a",
        "delimiter=%ff",
        "after=a&cursor=AQ",
    ] {
        assert_eq!(parse(text).unwrap_err(), "invalid_parameter", "{text}");
    }
    assert_eq!(parse("cursor=AQ").unwrap_err(), "invalid_cursor");
}

#[test]
fn a_cursor_goes_on_with_its_list_only() {
    let first = parse("prefix=a/&delimiter=/&end=x&limit=2").unwrap();
    let at_key = first.cursor(&ListPosition::Key(Bytes::from_static(b"a/b")));
    let at_prefix = first.cursor(&ListPosition::Prefix(Bytes::from_static(b"a/b/")));
    for (cursor, from) in [(at_key, "a/b\0"), (at_prefix, "a/b0")] {
        let list = "prefix=a/&delimiter=/&end=x";
        let text = format!("{list}&limit=3&values=true&cursor={cursor}");
        let next = parse(&text).unwrap();
        assert!(next.has_cursor);
        assert_eq!((next.query.from, next.query.to), (bytes(from), bytes("x")));
        for other in [
            "prefix=a/&delimiter=/",
            "prefix=a&delimiter=/&end=x",
            "prefix=a/&delimiter=/&end=x&start=a",
            "prefix=a/&delimiter=/&end=x&reverse=true",
            "prefix=a/&end=x",
        ] {
            let text = format!("{other}&cursor={cursor}");
            assert_eq!(parse(&text).unwrap_err(), "invalid_cursor", "{other}");
        }
        let other = BucketId::parse(b"auhghFqhu2QbU2").unwrap();
        let other = ListRequest::parse(&other, Query::new(Some(&text)));
        assert_eq!(other.unwrap_err().code(), "invalid_cursor");
    }
}

#[test]
fn links_repeat_the_query_without_the_place() {
    let request = parse("delimiter=%26&after=x&prefix=%c3%a9 &limit=2&values=true&x=y").unwrap();
    let link = request.next_link(&bucket(), "AQ");
    let expected = "</kv/aArigQkIoMOGqG?prefix=%C3%A9%20&limit=2&delimiter=%26&values=true\
                    &cursor=AQ>; rel=\"next\"";
    assert_eq!(link.unwrap(), expected);
}
