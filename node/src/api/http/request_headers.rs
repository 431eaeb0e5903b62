//! Reads headers of requests.

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::errors::ApiError;

/// Returns the value of a header; 400 if two of its lines differ, since a proxy may have used the
/// other one.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, ApiError> {
    let values: GetAll<'a, HeaderValue> = headers.get_all(name);
    let mut values = values.iter();
    let first = values.next();
    match values.find(|other| Some(*other) != first) {
        None => Ok(first),
        Some(_) => Err(ApiError::invalid_header(format!(
            "header {name} must be given once"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::headers::API_KEY;

    #[test]
    fn differing_lines_are_refused() {
        let mut headers = HeaderMap::new();
        assert!(single(&headers, &API_KEY).unwrap().is_none());
        headers.append(&API_KEY, HeaderValue::from_static("a"));
        headers.append(&API_KEY, HeaderValue::from_static("a"));
        assert_eq!(single(&headers, &API_KEY).unwrap().unwrap(), "a");
        headers.append(&API_KEY, HeaderValue::from_static("b"));
        assert_eq!(
            single(&headers, &API_KEY).unwrap_err().code(),
            "invalid_header"
        );
    }
}
