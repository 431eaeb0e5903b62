//! Static table of headers that most requests or responses have, and of their common values, as in
//! HPACK (RFC 7541).
//!
//! Router and node must have the same table: [`TABLE_VERSION`] identifies it, and is raised with
//! every change here. A router and a node of different versions use no stream for users' requests:
//! they are sent as HTTP.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue, header};

use crate::server::cors::EXPOSED;

/// Version of the table, which a router and a node exchange in their greetings.
pub const VERSION: u32 = 1;

/// Names, whose indexes begin with 1, and their common values. A change needs another
/// [`TABLE_VERSION`].
const NAMES: [(HeaderName, &[&str]); COUNT] = [
    // Of responses.
    (own("x-request-id"), &[]),
    (own("x-cloudkv-region"), &[]),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, &["*"]),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, &[EXPOSED]),
    (header::ETAG, &[]),
    (header::LAST_MODIFIED, &[]),
    (header::CACHE_CONTROL, &["no-cache", "no-store"]),
    (header::CONTENT_TYPE, TYPES),
    (header::X_CONTENT_TYPE_OPTIONS, &["nosniff"]),
    (
        header::CONTENT_SECURITY_POLICY,
        &["sandbox; default-src 'none'"],
    ),
    (own("cross-origin-resource-policy"), &["cross-origin"]),
    (own("x-cloudkv-version"), &[]),
    (own("x-cloudkv-lag"), &[]),
    (header::EXPIRES, &[]),
    (header::CONTENT_LENGTH, &["0"]),
    (header::RETRY_AFTER, &["1"]),
    (header::ALLOW, &[]),
    (header::VARY, &[]),
    (header::LOCATION, &[]),
    (header::DATE, &[]),
    // Of requests.
    (own("x-forwarded-for"), &[]),
    (own("x-forwarded-proto"), &["http", "https"]),
    (own("x-forwarded-host"), &[]),
    (own("api-key"), &[]),
    (own("x-cloudkv-min-version"), &[]),
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
        &["GET", "PUT", "POST", "DELETE"],
    ),
    (header::ACCESS_CONTROL_REQUEST_HEADERS, &[]),
    (own("traceparent"), &[]),
    (own("tracestate"), &[]),
];

// Indexes are bytes, and 0 is none.
const _: () = assert!(COUNT < u8::MAX as usize);
const COUNT: usize = 44;

const TYPES: &[&str] = &[
    "application/octet-stream",
    "application/json",
    "application/json; charset=utf-8",
    "text/plain",
    "text/plain; charset=utf-8",
    "application/x-www-form-urlencoded",
];

const fn own(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// Entry of the table.
#[derive(Debug)]
pub(super) struct Known {
    /// Name of the header.
    pub name: HeaderName,
    /// Common values.
    pub values: Vec<HeaderValue>,
}

/// Size of the hash table: several times the number of names, so that few look-ups probe twice.
const SLOTS: usize = 256;

/// The table, hashed by name.
#[derive(Debug)]
pub(super) struct Table {
    known: Vec<Known>,
    /// Indexes of entries, by [`probe_slots`]; 0: none.
    places: [u8; SLOTS],
}

/// Returns the table, which is built once.
pub(super) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(Table::new);
    &TABLE
}

impl Table {
    fn new() -> Self {
        let values = |values: &[&'static str]| {
            let values = values.iter().copied();
            values.map(HeaderValue::from_static).collect()
        };
        let entry = |(name, common)| Known {
            name,
            values: values(common),
        };
        let entries: Vec<Known> = NAMES.into_iter().map(entry).collect();
        let mut indexes = [0; SLOTS];
        for (index, entry) in (1..).zip(&entries) {
            if let Some(free) = slots(&entry.name).find(|slot| indexes[*slot] == 0) {
                indexes[free] = index;
            }
        }
        Self {
            known: entries,
            places: indexes,
        }
    }

    /// Returns the index and the entry of a name, if the table has it.
    pub fn find(&self, name: &HeaderName) -> Option<(u8, &Known)> {
        for slot in slots(name) {
            let index = self.places[slot];
            let entry = self.at(index)?;
            if entry.name == *name {
                return Some((index, entry));
            }
        }
        None
    }

    /// Returns the entry at an index.
    pub fn at(&self, index: u8) -> Option<&Known> {
        self.known.get(usize::from(index).checked_sub(1)?)
    }
}

impl Known {
    /// Returns the index of a value, if the entry has it.
    pub fn number_of(&self, value: &HeaderValue) -> Option<usize> {
        self.values.iter().position(|known| known == value)
    }
}

/// Returns the slots in which a name may be, in probing order.
fn slots(name: &HeaderName) -> impl Iterator<Item = usize> + use<> {
    let name = name.as_str().as_bytes();
    let byte = |at: usize| usize::from(name.get(at).copied().unwrap_or_default());
    let last = byte(name.len().saturating_sub(1));
    let first = 7 * name.len() + 31 * byte(name.len() / 2) + 3 * last + byte(0);
    (first..first + SLOTS).map(|slot| slot % SLOTS)
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    #[test]
    fn all_names_are_found_at_their_index() {
        let table = table();
        for (index, (name, values)) in (1..).zip(NAMES) {
            let (actual, entry) = table.find(&name).unwrap();
            assert_eq!((actual, &entry.name), (index, &name));
            assert_eq!(entry.values, values);
        }
        assert!(table.find(&own("x-mine")).is_none());
        assert!(table.at(0).is_none());
        assert!(table.at(u8::MAX).is_none());
    }

    /// Otherwise routers and nodes of two releases would read different headers from the same
    /// bytes.
    #[test]
    fn a_version_never_changes() {
        let mut all = String::new();
        for (name, values) in NAMES {
            all += &format!("{name}: {values:?}\n");
        }
        assert_eq!(
            (VERSION, xxh3_64(all.as_bytes())),
            (1, 7_938_521_804_501_169_184),
            "if the table has to change: raise VERSION"
        );
    }

    #[test]
    fn values_are_found() {
        let (_, entry) = table().find(&own("x-forwarded-proto")).unwrap();
        let index = |value| entry.number_of(&HeaderValue::from_static(value));
        assert_eq!((index("https"), index("ftp")), (Some(1), None));
    }
}
