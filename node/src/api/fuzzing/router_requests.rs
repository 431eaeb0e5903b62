//! Fuzz target of requests that a router forwards over its stream.

use cloudkv_common::transport::headers::{read_headers, write_headers};
use cloudkv_proto::v1 as pb;
use http_body::Body as _;
use prost::Message as _;

use super::{paths, queries};
use crate::api::router_requests::decode_request;

/// Decodes a request, and parses its path and query.
pub fn router_requests(data: &[u8]) {
    let Ok(request) = pb::UserRequest::decode(data) else {
        return;
    };
    let method = request.method.clone();
    let (target_bytes, body_bytes) = (request.target.len(), request.body.len());
    let Some(decoded) = decode_request(request) else {
        return;
    };
    assert_eq!(decoded.method().as_str(), method);
    assert_eq!(decoded.body().size_hint().exact(), Some(body_bytes as u64));
    let headers = write_headers(decoded.headers(), |_| false);
    assert_eq!(
        read_headers(&headers, 0).as_ref(),
        Ok(decoded.headers()),
        "headers didn't survive a round trip"
    );
    let (path, query) = (decoded.uri().path(), decoded.uri().query());
    assert!(path.len() + query.map_or(0, str::len) <= target_bytes + 1);
    if let Some(rest) = path.strip_prefix("/kv/") {
        paths::check_path(rest);
    }
    queries::queries(query.unwrap_or_default().as_bytes());
}
