//! Headers that most requests or answers have, and values that they often have.
//!
//! Router and node must have the same ones: [`VERSION`] says which, and is raised with every change
//! here. A router and a node of different versions do without the lane for users: requests go by
//! HTTP.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue, header};

use crate::server::cors::EXPOSED;

/// Which headers are known here: what a router and a node tell each other when they greet.
pub const VERSION: u32 = 1;

/// The names, each at its place, from 1 on, and what they often say. A change needs another
/// [`VERSION`].
const NAMES: [(HeaderName, &[&str]); COUNT] = [
    // Of answers.
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

// Places are bytes, and 0 is none.
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

/// A header that is known.
#[derive(Debug)]
pub(super) struct Known {
    /// Its name.
    pub name: HeaderName,
    /// What it often says.
    pub values: Vec<HeaderValue>,
}

/// Several times as many as there are names: few have to look at two.
const SLOTS: usize = 256;

/// All that are known.
#[derive(Debug)]
pub(super) struct Table {
    known: Vec<Known>,
    /// The places of names, by what [`slots`] makes of them; 0: none.
    places: [u8; SLOTS],
}

/// What is known, made once.
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
        let known = |(name, often)| Known {
            name,
            values: values(often),
        };
        let known: Vec<Known> = NAMES.into_iter().map(known).collect();
        let mut places = [0; SLOTS];
        for (place, known) in (1..).zip(&known) {
            if let Some(free) = slots(&known.name).find(|slot| places[*slot] == 0) {
                places[free] = place;
            }
        }
        Self { known, places }
    }

    /// The place of a name, and what stands there, if it is known.
    pub fn find(&self, name: &HeaderName) -> Option<(u8, &Known)> {
        for slot in slots(name) {
            let place = self.places[slot];
            let known = self.at(place)?;
            if known.name == *name {
                return Some((place, known));
            }
        }
        None
    }

    /// What stands at a place.
    pub fn at(&self, place: u8) -> Option<&Known> {
        self.known.get(usize::from(place).checked_sub(1)?)
    }
}

impl Known {
    /// The number of a value, if it is one that is known.
    pub fn number_of(&self, value: &HeaderValue) -> Option<usize> {
        self.values.iter().position(|known| known == value)
    }
}

/// The slots at which a name may be, in their order.
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
    fn all_have_a_place_of_their_own() {
        let table = table();
        for (place, (name, values)) in (1..).zip(NAMES) {
            let (found, known) = table.find(&name).unwrap();
            assert_eq!((found, &known.name), (place, &name));
            assert_eq!(known.values, values);
        }
        assert!(table.find(&own("x-mine")).is_none());
        assert!(table.at(0).is_none());
        assert!(table.at(u8::MAX).is_none());
    }

    /// Else routers and nodes of two releases would read different headers in the same bytes.
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
        let (_, known) = table().find(&own("x-forwarded-proto")).unwrap();
        let number = |value| known.number_of(&HeaderValue::from_static(value));
        assert_eq!((number("https"), number("ftp")), (Some(1), None));
    }
}
