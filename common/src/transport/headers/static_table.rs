//! Static table of headers that most requests or responses have, and of their common values, as in
//! HPACK (RFC 7541).
//!
//! Router and node must have the same table: [`TABLE_VERSION`] identifies it, and is raised with
//! every change here. A router and a node of different versions use no stream for users' requests:
//! they are sent as HTTP.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue, header};

use crate::cors::EXPOSED_HEADERS;

/// Version of the table, which a router and a node exchange in their greetings.
pub const TABLE_VERSION: u32 = 2;

/// Names, whose indexes begin with 1, and their common values. A change needs another
/// [`TABLE_VERSION`].
const ENTRIES: [(HeaderName, &[&str]); ENTRY_COUNT] = [
    // Of responses.
    (header_name("x-request-id"), &[]),
    (header_name("x-cloudkv-region"), &[]),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, &["*"]),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, &[EXPOSED_HEADERS]),
    (header::ETAG, &[]),
    (header::LAST_MODIFIED, &[]),
    (header::CACHE_CONTROL, &["no-cache", "no-store"]),
    (header::CONTENT_TYPE, CONTENT_TYPES),
    (header::X_CONTENT_TYPE_OPTIONS, &["nosniff"]),
    (
        header::CONTENT_SECURITY_POLICY,
        &["sandbox; default-src 'none'"],
    ),
    (
        header_name("cross-origin-resource-policy"),
        &["cross-origin"],
    ),
    (header_name("x-cloudkv-version"), &[]),
    (header_name("x-cloudkv-lag"), &[]),
    (header::EXPIRES, &[]),
    (header::CONTENT_LENGTH, &["0"]),
    (header::RETRY_AFTER, &["1"]),
    (header::ALLOW, &[]),
    (header::VARY, &[]),
    (header::LOCATION, &[]),
    (header::DATE, &[]),
    // Of requests.
    (header_name("x-forwarded-for"), &[]),
    (header_name("x-forwarded-proto"), &["http", "https"]),
    (header_name("x-forwarded-host"), &[]),
    (header_name("api-key"), &[]),
    (header_name("x-cloudkv-min-version"), &[]),
    (header::ACCEPT, &["*/*"]),
    (
        header::ACCEPT_ENCODING,
        &["gzip, deflate, br", "gzip, deflate, br, zstd"],
    ),
    (header::ACCEPT_LANGUAGE, &[]),
    (header::USER_AGENT, &[]),
    (header::AUTHORIZATION, &[]),
    (header::COOKIE, &[]),
    (header::ORIGIN, &[]),
    (header::REFERER, &[]),
    (header::FORWARDED, &[]),
    (header::VIA, &[]),
    (header::PRAGMA, &["no-cache"]),
    (header::IF_MATCH, &["*"]),
    (header::IF_NONE_MATCH, &["*"]),
    (header::IF_MODIFIED_SINCE, &[]),
    (header::IF_UNMODIFIED_SINCE, &[]),
    (
        header::ACCESS_CONTROL_REQUEST_METHOD,
        &["GET", "PUT", "POST", "DELETE", "PATCH"],
    ),
    (header::ACCESS_CONTROL_REQUEST_HEADERS, &[]),
    (header_name("traceparent"), &[]),
    (header_name("tracestate"), &[]),
    // Of both, and of lists; since version 2.
    (header_name("x-cloudkv-metadata"), &[]),
    (header::LINK, &[]),
];

// Indexes are bytes, and 0 is none.
const _: () = assert!(ENTRY_COUNT < u8::MAX as usize);
const ENTRY_COUNT: usize = 46;

const CONTENT_TYPES: &[&str] = &[
    "application/octet-stream",
    "application/json",
    "application/json; charset=utf-8",
    "text/plain",
    "text/plain; charset=utf-8",
    "application/x-www-form-urlencoded",
];

const fn header_name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// Entry of the table.
#[derive(Debug)]
pub(super) struct StaticEntry {
    /// Name of the header.
    pub name: HeaderName,
    /// Common values.
    pub values: Vec<HeaderValue>,
}

/// Size of the hash table: several times the number of names, so that few look-ups probe twice.
const SLOT_COUNT: usize = 256;

/// The table, hashed by name.
#[derive(Debug)]
pub(super) struct StaticTable {
    entries: Vec<StaticEntry>,
    /// Indexes of entries, by [`probe_slots`]; 0: none.
    slots: [u8; SLOT_COUNT],
}

/// Returns the table, which is built once.
pub(super) fn static_table() -> &'static StaticTable {
    static TABLE: LazyLock<StaticTable> = LazyLock::new(StaticTable::new);
    &TABLE
}

impl StaticTable {
    fn new() -> Self {
        let values = |values: &[&'static str]| {
            let values = values.iter().copied();
            values.map(HeaderValue::from_static).collect()
        };
        let entry = |(name, common)| StaticEntry {
            name,
            values: values(common),
        };
        let entries: Vec<StaticEntry> = ENTRIES.into_iter().map(entry).collect();
        let mut indexes = [0; SLOT_COUNT];
        for (index, entry) in (1..).zip(&entries) {
            if let Some(free) = probe_slots(&entry.name).find(|slot| indexes[*slot] == 0) {
                indexes[free] = index;
            }
        }
        Self {
            entries,
            slots: indexes,
        }
    }

    /// Returns the index and the entry of a name, if the table has it.
    pub(super) fn find(&self, name: &HeaderName) -> Option<(u8, &StaticEntry)> {
        for slot in probe_slots(name) {
            let index = self.slots[slot];
            let entry = self.get(index)?;
            if entry.name == *name {
                return Some((index, entry));
            }
        }
        None
    }

    /// Returns the entry at an index.
    pub(super) fn get(&self, index: u8) -> Option<&StaticEntry> {
        self.entries.get(usize::from(index).checked_sub(1)?)
    }
}

impl StaticEntry {
    /// Returns the index of a value, if the entry has it.
    pub(super) fn value_index(&self, value: &HeaderValue) -> Option<usize> {
        self.values.iter().position(|known| known == value)
    }
}

/// Returns the slots in which a name may be, in probing order.
fn probe_slots(name: &HeaderName) -> impl Iterator<Item = usize> + use<> {
    let name = name.as_str().as_bytes();
    let byte = |at: usize| usize::from(name.get(at).copied().unwrap_or_default());
    let last = byte(name.len().saturating_sub(1));
    let first = 7 * name.len() + 31 * byte(name.len() / 2) + 3 * last + byte(0);
    (first..first + SLOT_COUNT).map(|slot| slot % SLOT_COUNT)
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    #[test]
    fn all_names_are_found_at_their_index() {
        let table = static_table();
        for (index, (name, values)) in (1..).zip(ENTRIES) {
            let (actual, entry) = table.find(&name).unwrap();
            assert_eq!((actual, &entry.name), (index, &name));
            assert_eq!(entry.values, values);
        }
        assert!(table.find(&header_name("x-mine")).is_none());
        assert!(table.get(0).is_none());
        assert!(table.get(u8::MAX).is_none());
    }

    /// Otherwise routers and nodes of two releases would read different headers from the same
    /// bytes.
    #[test]
    fn a_version_never_changes() {
        let mut all = String::new();
        for (name, values) in ENTRIES {
            all += &format!("{name}: {values:?}\n");
        }
        assert_eq!(
            (TABLE_VERSION, xxh3_64(all.as_bytes())),
            (2, 7_848_365_858_195_587_738),
            "if the table has to change: raise VERSION"
        );
    }

    #[test]
    fn values_are_found() {
        let (_, entry) = static_table()
            .find(&header_name("x-forwarded-proto"))
            .unwrap();
        let index = |value| entry.value_index(&HeaderValue::from_static(value));
        assert_eq!((index("https"), index("ftp")), (Some(1), None));
    }
}
