//! Reads a page of a bucket's list from a shard.
//!
//! A query for keys behind a key, in ascending order, has the form that nodes of level 1 know. All
//! else needs [`KEY_METADATA_LEVEL`](crate::shard::KEY_METADATA_LEVEL): see [`needs_list_level`].

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};

use super::operation::{Operation, ShardError};
use crate::shard::{Page, ShardHandle};
use crate::types::{KeyInfo, ListEntry, ListQuery, Version};

/// Lists live keys of a bucket and their common prefixes.
pub(super) struct ListKeys<'a> {
    pub bucket: &'a [u8],
    pub query: &'a ListQuery,
}

/// Returns whether a query has more than a prefix, a limit and a key behind which it begins.
pub(super) fn needs_list_level(query: &ListQuery) -> bool {
    let ListQuery {
        prefix: _,
        from,
        to,
        delimiter,
        is_reverse,
        with_values,
        limit: _,
        max_value_bytes: _,
        // A node that doesn't know it reads on.
        max_rows: _,
        with_index,
    } = query;
    let has_first_key = from.as_ref().is_some_and(|from| after_of(from).is_none());
    let has_bounds = has_first_key || to.is_some() || !delimiter.is_empty();
    has_bounds || *is_reverse || *with_values || *with_index
}

/// Returns the key behind which a first key is the next one; `None` if there is none.
fn after_of(from: &Bytes) -> Option<Bytes> {
    let end = from.len().checked_sub(1)?;
    (from[end] == 0).then(|| from.slice(..end))
}

impl ListKeys<'_> {
    /// Decodes the query of a call from another node.
    pub(super) fn decode_query(page: pb::ForwardedPage) -> ListQuery {
        let from_after = |after: Bytes| Bytes::from([&after[..], b"\0"].concat());
        ListQuery {
            prefix: page.prefix,
            from: page.from.or(page.after.map(from_after)),
            to: page.to,
            delimiter: page.delimiter,
            is_reverse: page.reverse,
            with_values: page.values,
            limit: page.limit as usize,
            max_value_bytes: usize::try_from(page.max_bytes).unwrap_or(usize::MAX),
            max_rows: usize::try_from(page.max_rows).ok().filter(|rows| *rows > 0),
            with_index: page.with_index,
        }
    }
}

impl Operation for ListKeys<'_> {
    type Output = Page;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<Page, ShardError> {
        Ok(shard.page(self.bucket, self.query.clone()).await?)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        let query = self.query.clone();
        let after = query.from.as_ref().and_then(after_of);
        call::Body::Page(pb::ForwardedPage {
            shard: u32::from(shard),
            bucket: Bytes::copy_from_slice(self.bucket),
            prefix: query.prefix,
            from: query.from.filter(|_| after.is_none()),
            after,
            limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
            to: query.to,
            delimiter: query.delimiter,
            reverse: query.is_reverse,
            values: query.with_values,
            max_bytes: query.max_value_bytes as u64,
            max_rows: query.max_rows.map_or(0, |rows| rows as u64),
            with_index: query.with_index,
        })
    }

    fn encode(page: Page) -> reply::Body {
        reply::Body::Page(pb::PageReply {
            keys: page.entries.into_iter().map(encode_entry).collect(),
            more: page.has_more,
            resume: page.resume,
            applied_index: page.applied_index,
        })
    }

    fn decode(reply: reply::Body) -> Option<Page> {
        let reply::Body::Page(page) = reply else {
            return None;
        };
        Some(Page {
            entries: page.keys.into_iter().map(decode_entry).collect(),
            has_more: page.more,
            resume: page.resume,
            applied_index: page.applied_index,
        })
    }
}

fn encode_entry(entry: ListEntry) -> pb::ListedKey {
    match entry {
        ListEntry::Key(info) => pb::ListedKey {
            key: info.key,
            size: info.size,
            version: Some(info.version.into()),
            expires_at: info.expires_at.unwrap_or(0),
            content_type: info.content_type,
            metadata: info.metadata,
            value: info.value.unwrap_or_default(),
            is_prefix: false,
        },
        ListEntry::Prefix(prefix) => pb::ListedKey {
            key: prefix,
            is_prefix: true,
            ..Default::default()
        },
    }
}

fn decode_entry(key: pb::ListedKey) -> ListEntry {
    if key.is_prefix {
        return ListEntry::Prefix(key.key);
    }
    ListEntry::Key(KeyInfo {
        // Without a value of its size the values weren't requested.
        value: (key.value.len() as u64 == key.size).then_some(key.value),
        key: key.key,
        size: key.size,
        version: key.version.map(Version::from).unwrap_or_default(),
        expires_at: (key.expires_at != 0).then_some(key.expires_at),
        content_type: key.content_type,
        metadata: key.metadata,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn call_of(query: &ListQuery) -> pb::ForwardedPage {
        let bucket = b"aAAAAAAAAAAAAA";
        match (ListKeys { bucket, query }).to_call(3) {
            call::Body::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }

    fn full_query() -> ListQuery {
        ListQuery {
            prefix: bytes("a"),
            from: Some(bytes("ab")),
            to: Some(bytes("ax")),
            delimiter: bytes("/"),
            is_reverse: true,
            with_values: true,
            limit: 7,
            max_value_bytes: 1 << 20,
            max_rows: Some(9),
            with_index: true,
        }
    }

    #[test]
    fn queries_survive_encoding() {
        let behind_a_key = ListQuery {
            from: Some(bytes("ab\0")),
            ..full_query()
        };
        for query in [ListQuery::default(), full_query(), behind_a_key] {
            assert_eq!(ListKeys::decode_query(call_of(&query)), query);
        }
    }

    #[test]
    fn a_query_that_level_1_knows_has_its_form() {
        let query = ListQuery {
            prefix: bytes("a"),
            from: Some(bytes("ab\0")),
            limit: 7,
            ..ListQuery::default()
        };
        assert!(!needs_list_level(&query));
        let call = call_of(&query);
        assert_eq!((call.after.as_deref(), call.from), (Some(&b"ab"[..]), None));
        // As release 0.1 sends it.
        let old = b"\x08\x03\x12\x0eaAAAAAAAAAAAAA\x1a\x01a\x22\x02ab\x28\x07";
        assert_eq!(call_of(&query).encode_to_vec(), old);
    }

    #[test]
    fn all_other_queries_need_the_level() {
        let full = full_query();
        let queries = [
            ListQuery {
                from: full.from,
                ..ListQuery::default()
            },
            ListQuery {
                from: Some(Bytes::new()),
                ..ListQuery::default()
            },
            ListQuery {
                to: full.to,
                ..ListQuery::default()
            },
            ListQuery {
                delimiter: full.delimiter,
                ..ListQuery::default()
            },
            ListQuery {
                is_reverse: true,
                ..ListQuery::default()
            },
            ListQuery {
                with_values: true,
                ..ListQuery::default()
            },
            ListQuery {
                with_index: true,
                ..ListQuery::default()
            },
        ];
        for query in queries {
            assert!(needs_list_level(&query), "{query:?}");
        }
        assert!(!needs_list_level(&ListQuery::default()));
    }

    #[test]
    fn pages_survive_encoding() {
        let info = |name, value: Option<Bytes>| {
            ListEntry::Key(KeyInfo {
                key: bytes(name),
                size: 5,
                version: Version { time: 7, region: 2 },
                expires_at: Some(9),
                content_type: bytes("text/x"),
                metadata: bytes("{\"a\":1}"),
                value,
            })
        };
        let page = Page {
            entries: vec![
                info("a", None),
                ListEntry::Prefix(bytes("b/")),
                info("c", Some(bytes("value"))),
            ],
            has_more: true,
            resume: Some(bytes("c7")),
            applied_index: 42,
        };
        assert_eq!(ListKeys::decode(ListKeys::encode(page.clone())), Some(page));
    }
}
