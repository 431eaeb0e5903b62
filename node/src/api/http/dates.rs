//! Dates in the formats of HTTP and JSON.
//!
//! Formatting a date costs about as much as the rest of a cached read. Keys written in one second
//! share it, so each thread caches the last few formatted seconds.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::service::Nanos;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const CACHE_SLOTS: usize = 16;

thread_local! {
    static HEADER_CACHE: RefCell<[Option<(u64, HeaderValue)>; CACHE_SLOTS]> =
        const { RefCell::new([const { None }; CACHE_SLOTS]) };
}

/// Returns whole seconds since 1970.
pub(crate) fn seconds(time: Nanos) -> u64 {
    time / NANOS_PER_SECOND
}

/// Formats a time as the value of `Last-Modified` or `Expires`, rounded down to the second.
pub(crate) fn header(time: Nanos) -> HeaderValue {
    let seconds = seconds(time);
    HEADER_CACHE.with_borrow_mut(|cache| {
        let slot = &mut cache[seconds as usize % CACHE_SLOTS];
        match slot {
            Some((cached, value)) if *cached == seconds => value.clone(),
            Some(_) | None => {
                let value = format(seconds);
                *slot = Some((seconds, value.clone()));
                value
            }
        }
    })
}

fn format(seconds: u64) -> HeaderValue {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(text)
        .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// Parses the value of a date header, in whole seconds since 1970; `None` if it isn't a date.
pub(crate) fn parse(value: &HeaderValue) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Formats a time for JSON: RFC 3339 with microseconds, in UTC.
pub(crate) fn rfc3339(time: Nanos) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(time)).to_string()
}

/// Formats a time like [`rfc3339`], with nanoseconds if they are needed to parse the same time.
pub(crate) fn rfc3339_exact(time: Nanos) -> String {
    if time.is_multiple_of(1000) {
        return rfc3339(time);
    }
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(time)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIRTHDAY: Nanos = 1_574_287_932_123_456_789;

    #[test]
    fn dates_have_the_http_format() {
        assert_eq!(header(BIRTHDAY), "Wed, 20 Nov 2019 22:12:12 GMT");
        assert_eq!(header(BIRTHDAY), "Wed, 20 Nov 2019 22:12:12 GMT");
        assert_eq!(
            header(BIRTHDAY + 16 * NANOS_PER_SECOND),
            "Wed, 20 Nov 2019 22:12:28 GMT"
        );
        assert_eq!(header(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(header(Nanos::MAX), "Sun, 21 Jul 2554 23:34:33 GMT");
    }

    #[test]
    fn formatted_dates_are_parsed() {
        assert_eq!(parse(&header(BIRTHDAY)), Some(seconds(BIRTHDAY)));
        assert_eq!(parse(&HeaderValue::from_static("yesterday")), None);
    }

    #[test]
    fn json_times_have_microseconds() {
        assert_eq!(rfc3339(BIRTHDAY), "2019-11-20T22:12:12.123456Z");
        assert_eq!(rfc3339(Nanos::MAX), "2554-07-21T23:34:33.709551Z");
        assert_eq!(rfc3339_exact(BIRTHDAY), "2019-11-20T22:12:12.123456789Z");
        let rounded = BIRTHDAY - 789;
        assert_eq!(rfc3339_exact(rounded), rfc3339(rounded));
    }
}
