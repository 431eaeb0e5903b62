//! Expiry of keys, as requests name it: a time to live, a time, or none.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ttl::{self, MAX_TTL, TtlError};
use crate::service::{Bucket, Expiry, Nanos};

/// Names of the parameters.
pub(crate) const PARAMETERS: [&str; 3] = ["ttl", "expires_at", "persist"];

/// Error of an expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpiryError {
    /// The time to live is invalid.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// The time is neither RFC 3339 nor Unix seconds.
    #[error(
        "expires_at must be a time of RFC 3339, as in 2030-01-31T12:00:00Z (a + in a query is \
         %2B), or whole seconds since 1970"
    )]
    Time,
    /// The time has passed.
    #[error("expires_at must be in the future")]
    Past,
    /// The time is further away than [`MAX_TTL`].
    #[error("expires_at must be at most 100 years away")]
    TooFar,
    /// `persist` isn't `true`.
    #[error("persist must be true, or be left out")]
    Persist,
    /// More than one is given.
    #[error("ttl, expires_at and persist exclude each other: give one of them")]
    Several,
}

/// Returns the expiry that a request names, by the texts of its parameters; `None` if it names
/// none. A time must lie after `now`.
pub(crate) fn requested(
    ttl: Option<&str>,
    expires_at: Option<&str>,
    persist: Option<&str>,
    now: Nanos,
) -> Result<Option<Expiry>, ExpiryError> {
    match (ttl, expires_at, persist) {
        (None, None, None) => Ok(None),
        (Some(ttl), None, None) => Ok(Some(Expiry::After(ttl::parse(ttl)?))),
        (None, Some(text), None) => {
            let time = parse_time(text).ok_or(ExpiryError::Time)?;
            check_time(time, now).map(Some)
        }
        (None, None, Some("true")) => Ok(Some(Expiry::Never)),
        (None, None, Some(_)) => Err(ExpiryError::Persist),
        _ => Err(ExpiryError::Several),
    }
}

/// Returns the expiry of a put that names none.
pub(crate) fn default_of(bucket: &Bucket) -> Expiry {
    bucket.default_ttl.map_or(Expiry::Never, Expiry::After)
}

/// Returns the expiry at a time, which must lie after `now`, though not too far.
pub(crate) fn check_time(time: Nanos, now: Nanos) -> Result<Expiry, ExpiryError> {
    if time <= now {
        Err(ExpiryError::Past)
    } else if Duration::from_nanos(time - now) > MAX_TTL {
        Err(ExpiryError::TooFar)
    } else {
        Ok(Expiry::At(time))
    }
}

/// Parses a time of RFC 3339 or of whole Unix seconds. Times before 1970 become 1970, and those
/// beyond 2554 the last that can be stored.
pub(crate) fn parse_time(text: &str) -> Option<Nanos> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000_000_000));
    }
    let nanos = OffsetDateTime::parse(text, &Rfc3339)
        .ok()?
        .unix_timestamp_nanos();
    Some(Nanos::try_from(nanos.max(0)).unwrap_or(Nanos::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::api::http::dates;

    const SECOND: Nanos = 1_000_000_000;
    /// 2030-01-31 12:00:00.
    const NOON: Nanos = 1_896_091_200 * SECOND;

    #[test]
    fn times_are_rfc_3339_or_seconds() {
        for text in [
            "1896091200",
            "2030-01-31T12:00:00Z",
            "2030-01-31t12:00:00z",
            "2030-01-31T14:00:00+02:00",
            "2030-01-31T12:00:00.000Z",
        ] {
            assert_eq!(parse_time(text), Some(NOON), "{text}");
        }
        assert_eq!(parse_time("1969-12-31T23:59:59Z"), Some(0));
        assert_eq!(parse_time("9999-12-31T23:59:59Z"), Some(Nanos::MAX));
        assert_eq!(parse_time("99999999999999999999"), Some(Nanos::MAX));
        for text in [
            "",
            "-1",
            "+1",
            "1.5",
            "tomorrow",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "2030-13-31T12:00:00Z",
            "2030-02-30T12:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn at_most_one_expiry_is_named() {
        let of = |ttl, at, persist| requested(ttl, at, persist, NOON);
        assert_eq!(of(None, None, None), Ok(None));
        let second = Duration::from_secs(1);
        assert_eq!(of(Some("1s"), None, None), Ok(Some(Expiry::After(second))));
        let next = NOON + SECOND;
        assert_eq!(
            of(None, Some("1896091201"), None),
            Ok(Some(Expiry::At(next)))
        );
        assert_eq!(of(None, None, Some("true")), Ok(Some(Expiry::Never)));
        assert_eq!(of(None, None, Some("false")), Err(ExpiryError::Persist));
        assert_eq!(of(None, None, Some("")), Err(ExpiryError::Persist));
        assert_eq!(
            of(Some("0"), None, None),
            Err(ExpiryError::Ttl(TtlError::Zero))
        );
        assert_eq!(of(Some("1"), None, Some("true")), Err(ExpiryError::Several));
        assert_eq!(of(Some("1"), Some("2"), None), Err(ExpiryError::Several));
    }

    #[test]
    fn times_lie_in_the_next_hundred_years() {
        let at = |time: &str| requested(None, Some(time), None, NOON);
        assert_eq!(at("1896091200"), Err(ExpiryError::Past));
        assert_eq!(at("0"), Err(ExpiryError::Past));
        assert_eq!(at("1969-12-31T23:59:59Z"), Err(ExpiryError::Past));
        assert_eq!(at("2200-01-01T00:00:00Z"), Err(ExpiryError::TooFar));
        assert_eq!(at("99999999999999999999"), Err(ExpiryError::TooFar));
        assert_eq!(at("soon"), Err(ExpiryError::Time));
    }

    proptest! {
        #[test]
        fn formatted_times_are_parsed(micros in 0_u64..18_446_744_073_000_000) {
            let time = micros * 1000;
            prop_assert_eq!(parse_time(&dates::rfc3339(time)), Some(time));
        }

        #[test]
        fn exact_times_are_parsed(time in any::<u64>()) {
            prop_assert_eq!(parse_time(&dates::rfc3339_exact(time)), Some(time));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse_time(&text);
        }

        #[test]
        fn never_panics_on_lookalikes(text in "[0-9TZ:.+-]{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
