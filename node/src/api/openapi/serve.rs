//! Serves the document and the page, which are made at the first request for one of them.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::operations::describe;
use super::page;
use crate::api::http::headers::JSON;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Document and page, as they are sent.
static ASSETS: LazyLock<Assets> = LazyLock::new(Assets::new);

struct Assets {
    document: Asset,
    page: Asset,
    /// `Content-Security-Policy` of the page: nothing but its own style.
    page_policy: HeaderValue,
}

/// Content with its entity tag.
struct Asset {
    content: Bytes,
    etag: String,
}

impl Assets {
    fn new() -> Self {
        let document = describe();
        let value = serde_json::to_value(&document).unwrap_or(Value::Null);
        let page = page::render(&value);
        let style = STANDARD.encode(Sha256::digest(page::STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        Self {
            document: Asset::new(serde_json::to_vec(&document).unwrap_or_default()),
            page: Asset::new(page),
            page_policy: HeaderValue::try_from(policy)
                .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'")),
        }
    }
}

impl Asset {
    fn new(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let etag = format!("\"{:016x}\"", xxh3_64(&content));
        Self { content, etag }
    }

    /// Returns the response to a request with these headers.
    fn respond(&self, request: &HeaderMap, content_type: HeaderValue) -> Response {
        let mut response = if self.is_current(request) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(CONTENT_TYPE, content_type)], self.content.clone()).into_response()
        };
        let headers = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(ETAG, etag);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// Returns whether the client has this content, by `If-None-Match`.
    fn is_current(&self, request: &HeaderMap) -> bool {
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let mut tags = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .map(str::trim);
        tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag)
    }
}

/// Handles `GET /openapi.json`.
pub(crate) async fn serve_document(headers: HeaderMap) -> Response {
    ASSETS.document.respond(&headers, JSON)
}

/// Handles `GET /docs`.
pub(crate) async fn serve_page(headers: HeaderMap) -> Response {
    let mut response = ASSETS.page.respond(&headers, HTML);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, ASSETS.page_policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_have_the_content_are_not_sent_it_again() {
        let asset = Asset::new("content");
        let tags = |tags: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(tags).unwrap());
            asset.is_current(&headers)
        };
        assert!(tags("*"));
        assert!(tags(&asset.etag));
        assert!(tags(&format!("\"x\", W/{}", asset.etag)));
        assert!(!tags("\"x\""));
        assert!(!asset.is_current(&HeaderMap::new()));
        assert!(!tags(&Asset::new("other").etag));
    }

    #[test]
    fn the_page_has_the_style_that_its_policy_allows_and_no_other() {
        let page = String::from_utf8(ASSETS.page.content.to_vec()).unwrap();
        assert_eq!(page.matches("<style>").count(), 1);
        assert!(page.contains(&format!("<style>{}</style>", page::STYLE)));
        assert!(!page.contains("style="));
        assert!(!page.contains("<script"));
        let policy = ASSETS.page_policy.to_str().unwrap();
        assert!(policy.contains("style-src 'sha256-"), "{policy}");
    }
}
