//! Pages of lists: their `limit`, and the `Link` to the next one (RFC 8288).

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::errors::ApiError;
use crate::api::http::query::Query;

/// Characters that are escaped in the query of a link: all but those that never need it.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Parses `limit`: `max` if it isn't given.
pub(crate) fn parse_limit(query: Query<'_>, max: usize) -> Result<usize, ApiError> {
    let Some(text) = query.get("limit")? else {
        return Ok(max);
    };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().ok() } else { None };
    number
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| {
            ApiError::invalid_parameter(format!("limit must be a number from 1 to {max}"))
        })
}

/// Builds the link to the next page: `cursor`, and those parameters of the request's query that
/// `repeated` names.
pub(crate) fn next_link(
    path: &str,
    query: Query<'_>,
    repeated: &[&'static str],
    cursor: &str,
) -> Result<HeaderValue, ApiError> {
    let mut link = format!("<{path}?");
    for name in repeated {
        if let Some(value) = query.get(name)? {
            link += &format!("{name}={}&", utf8_percent_encode(&value, ESCAPED));
        }
    }
    link += &format!("cursor={cursor}>; rel=\"next\"");
    HeaderValue::try_from(link)
        .map_err(|error| ApiError::internal("building the link to a page failed", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Result<usize, &'static str> {
        parse_limit(Query::new(Some(text)), 1000).map_err(|error| error.code())
    }

    #[test]
    fn limits_have_a_default_and_bounds() {
        assert_eq!(limit(""), Ok(1000));
        assert_eq!(limit("limit=7"), Ok(7));
        assert_eq!(limit("limit=1000"), Ok(1000));
        for text in ["0", "1001", "", "+5", "x", "-1", "99999999999999999999999"] {
            let query = format!("limit={text}");
            assert_eq!(limit(&query), Err("invalid_parameter"), "{text}");
        }
    }

    #[test]
    fn links_repeat_the_parameters_that_they_are_given() {
        let query = Query::new(Some("prefix=a+b%2F%c3%a9%26&limit=3&after=x&colour=red"));
        let link = next_link("/kv/aB", query, &["prefix", "end", "limit"], "AQ-_");
        assert_eq!(
            link.unwrap(),
            "</kv/aB?prefix=a%20b/%C3%A9%26&limit=3&cursor=AQ-_>; rel=\"next\""
        );
        let link = next_link("/buckets", Query::new(None), &["limit"], "AQ");
        assert_eq!(link.unwrap(), "</buckets?cursor=AQ>; rel=\"next\"");
    }
}
