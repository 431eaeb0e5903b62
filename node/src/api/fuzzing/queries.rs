//! Fuzz target of queries, and of the values of their parameters.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use super::refusal::check_refusal;
use crate::api::errors::ApiError;
use crate::api::http::query::Query;
use crate::api::http::ttl::{self, MAX_TTL};
use crate::api::http::{dates, expiry};
use crate::service::{Expiry, Nanos};

/// Names of parameters.
const NAMES: [&str; 8] = [
    "ttl",
    "expires_at",
    "persist",
    "prefix",
    "limit",
    "cursor",
    "consistency",
    "confirm",
];
/// Time of the requests: in March 2030.
const NOW: Nanos = 1_900_000_000_000_000_000;

/// Parses a query, and its text as a time and as a time to live.
pub fn queries(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for name in NAMES {
        check_parameter(text, name);
    }
    check_unknown(text, &expiry::PARAMETERS);
    check_unknown(text, &[]);
    check_expiry(Query::new(Some(text)));
    check_ttl(text);
    check_time(text);
}

/// Compares a parameter with that by another decoder, which replaces what isn't UTF-8 and keeps
/// what is no escape.
fn check_parameter(text: &str, name: &'static str) {
    let pairs = form_urlencoded::parse(text.as_bytes());
    let values = pairs.filter(|(given, _)| given == name);
    let values: Vec<Cow<'_, str>> = values.map(|(_, value)| value).collect();
    match Query::new(Some(text)).get(name) {
        Ok(value) => assert_eq!(Vec::from_iter(value), values),
        Err(error) => {
            let is_lossy = values.iter().any(|value| value.contains('\u{fffd}'));
            assert!(values.len() > 1 || is_lossy || has_broken_escape(text));
            check_refusal(error);
        }
    }
}

fn has_broken_escape(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let digits = after.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

fn check_unknown(text: &str, known: &[&'static str]) {
    let mut names = form_urlencoded::parse(text.as_bytes()).map(|(name, _)| name);
    let are_known = names.all(|name| known.contains(&&*name));
    match Query::new(Some(text)).refuse_unknown(known) {
        Ok(()) => assert!(are_known, "an unknown parameter was accepted"),
        Err(error) => {
            assert!(!are_known, "a known parameter was refused");
            check_refusal(error);
        }
    }
}

fn check_expiry(query: Query<'_>) {
    let [ttl, expires_at, persist] = expiry::PARAMETERS.map(|name| query.get(name).ok().flatten());
    let requested = expiry::requested(
        ttl.as_deref(),
        expires_at.as_deref(),
        persist.as_deref(),
        NOW,
    );
    let given = [&ttl, &expires_at, &persist].map(Option::is_some);
    match requested {
        Ok(None) => assert_eq!(given, [false, false, false]),
        Ok(Some(Expiry::After(duration))) => {
            assert_eq!(given, [true, false, false]);
            assert!((Duration::from_secs(1)..=MAX_TTL).contains(&duration));
        }
        Ok(Some(Expiry::At(time))) => {
            assert_eq!(given, [false, true, false]);
            assert!(time > NOW && Duration::from_nanos(time - NOW) <= MAX_TTL);
        }
        Ok(Some(Expiry::Never)) => assert_eq!(given, [false, false, true]),
        Err(error) => check_refusal(ApiError::invalid_ttl(error.to_string())),
    }
}

fn check_ttl(text: &str) {
    if let Ok(ttl) = ttl::parse(text) {
        assert_eq!(ttl.subsec_nanos(), 0);
        assert_eq!(ttl::parse(&ttl.as_secs().to_string()), Ok(ttl));
        assert_eq!(ttl::parse(&format!("{}s", ttl.as_secs())), Ok(ttl));
    }
}

/// Compares a time with that by another decoder, which knows only UTC.
fn check_time(text: &str) {
    let Some(time) = expiry::parse_time(text) else {
        return;
    };
    let micros = time - time % 1000;
    assert_eq!(expiry::parse_time(&dates::rfc3339(micros)), Some(micros));
    let Ok(other) = humantime::parse_rfc3339(text) else {
        return;
    };
    let other = other.duration_since(UNIX_EPOCH).unwrap_or_default();
    let other = Nanos::try_from(other.as_nanos()).unwrap_or(Nanos::MAX);
    // They differ in what becomes of a leap second.
    assert!(time.abs_diff(other) < 1_000_000_000, "{time} and {other}");
}
