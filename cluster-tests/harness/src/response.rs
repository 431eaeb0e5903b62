//! An HTTP response, and assertions on it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Version};
use serde_json::Value;

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// HTTP version.
    pub version: Version,
    /// All headers.
    pub headers: HeaderMap,
    /// Body, with any chunks put together.
    pub body: Bytes,
    /// Time from the request's first byte to the response's last.
    pub elapsed: Duration,
}

impl HttpResponse {
    /// Asserts the status code.
    #[track_caller]
    pub fn assert_status(&self, expected: u16) -> &Self {
        assert_eq!(self.status, expected, "{self:?}");
        self
    }

    /// Asserts an error: its status, its code, and the form that all errors have.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) -> &Self {
        self.assert_status(status);
        assert_eq!(self.error_code(), code, "{self:?}");
        self
    }

    /// Asserts that this is an error with one of these codes.
    #[track_caller]
    pub fn assert_error_in(&self, status: u16, codes: &[&str]) -> &Self {
        self.assert_status(status);
        let code = self.error_code();
        assert!(
            codes.contains(&code.as_str()),
            "{code:?} is none of {codes:?}: {self:?}"
        );
        self
    }

    /// Returns the code of an error.
    #[track_caller]
    pub fn error_code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/json; charset=utf-8",
            "{self:?}"
        );
        let body = self.json();
        let message = body["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "an error has a message: {self:?}");
        body["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns whether a node answered that it doesn't serve yet.
    pub fn is_of_starting_node(&self) -> bool {
        self.status == 503 && self.body.starts_with(br#"{"error":"starting""#)
    }

    /// Asserts that there is no body.
    #[track_caller]
    pub fn assert_empty(&self) -> &Self {
        assert!(self.body.is_empty(), "{self:?}");
        self
    }

    /// Returns the body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|_| panic!("not UTF-8: {self:?}"))
    }

    /// Returns the body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON: {e}: {self:?}"))
    }

    /// Returns the lines of a listing.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        self.text().split('\n').map(str::to_owned).collect()
    }

    /// Returns the path of the next page of a listing, if there is a link to it.
    #[track_caller]
    pub fn next_path(&self) -> Option<String> {
        let link = self.find_header("link")?;
        let path = link.strip_prefix('<');
        let path = path.and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        Some(path.unwrap_or_else(|| panic!("{link}")).to_owned())
    }

    /// Returns a header that must be present, once.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.find_header(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// Returns a header, if it is present.
    #[track_caller]
    pub fn find_header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values
            .next()?
            .to_str()
            .unwrap_or_else(|_| panic!("invalid {name}: {self:?}"));
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(value)
    }

    /// Returns the elements of a header that holds a list, in lower case.
    #[track_caller]
    pub fn header_list(&self, name: &str) -> Vec<String> {
        let value = self.header(name).to_ascii_lowercase();
        value
            .split(',')
            .map(|item| item.trim().to_owned())
            .collect()
    }

    /// Returns a header that holds a date.
    #[track_caller]
    pub fn header_date(&self, name: &str) -> SystemTime {
        let value = self.header(name);
        httpdate::parse_http_date(value).unwrap_or_else(|e| panic!("{name}: {value}: {e}"))
    }

    /// Returns the `ETag`, quotes included.
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").to_owned()
    }
}
