//! Region and shard of a request, and its head as it is sent to a node.

use bytes::Bytes;
use cloudkv_common::hash::shard_of;
use cloudkv_common::server::request_id::X_REQUEST_ID;
use cloudkv_common::server::{RequestOrigin, percent};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

use super::forwarding_headers;
use super::refusal::Refusal;
use super::request_kind::{RequestKind, key_path};
use super::settings::ProxySettings;
use crate::hosts::{RegionSelector, select_region};
use crate::topology::TopologyView;
use crate::upstream::{BufferedRequest, UpstreamBody};

/// A request without its body.
#[derive(Debug)]
pub(super) struct RequestHead {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// Region that the request is for; `None` for the global name.
    pub region: Option<usize>,
    /// Kind of the request.
    pub kind: RequestKind,
    /// Shard of the request's key. A watch of a key has none: any node of a region can serve it,
    /// and all watches of one key shouldn't be with one node.
    pub shard: Option<u16>,
    /// True if the request can be repeated after an unknown outcome.
    pub is_safe: bool,
    /// True if nodes read the whole body before they execute the request.
    pub is_body_read_first: bool,
    /// True if only the current region may execute the request: it has a condition, which only one
    /// region can evaluate; or is a batch, whose operations may have some; or a PATCH of a key,
    /// which makes the value that a region has the newest one, and another region may have an older
    /// one; or it is an export or import, which is for all that one region has.
    pub is_for_current_region: bool,
    /// True if the client sends its body only after `100 Continue`.
    pub expects_continue: bool,
}

impl RequestHead {
    /// Parses the head of a client's request of this kind into the head for a node.
    pub(super) fn new(
        parts: Parts,
        kind: RequestKind,
        id: &HeaderValue,
        origin: &RequestOrigin,
        settings: &ProxySettings,
        view: &TopologyView,
    ) -> Result<Self, Refusal> {
        let Parts {
            method,
            uri,
            mut headers,
            ..
        } = parts;
        if method == Method::CONNECT {
            return Err(Refusal::connect_not_supported());
        }
        let region = region_of_host(&uri, &headers, settings, view)?;
        let shard = match kind {
            RequestKind::EventStream => None,
            _ => shard_of_path(uri.path(), view.shards),
        };
        let expects_continue = expects_continue(&headers);
        let is_touch = method == Method::PATCH && shard.is_some();
        let is_for_current_region = match kind {
            RequestKind::Batch | RequestKind::Export | RequestKind::Import => true,
            RequestKind::Plain | RequestKind::EventStream => is_touch || is_conditional(&headers),
        };
        let is_safe = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        let is_body_read_first = matches!(method, Method::PUT | Method::POST | Method::PATCH)
            && kind != RequestKind::Import;
        forwarding_headers::strip_hop_by_hop(&mut headers);
        forwarding_headers::set_forwarding_headers(&mut headers, origin, &settings.trusted_proxies);
        headers.insert(&X_REQUEST_ID, id.clone());
        let uri = match uri.authority() {
            None => uri,
            Some(authority) => {
                // RFC 9112, 3.2.2: the authority of the target takes precedence.
                if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                    headers.insert(header::HOST, host);
                }
                origin_form(uri)
            }
        };
        headers
            .entry(header::HOST)
            .or_insert(HeaderValue::from_static("localhost"));
        Ok(Self {
            method,
            uri,
            headers,
            region,
            kind,
            shard,
            is_safe,
            is_body_read_first,
            is_for_current_region,
            expects_continue,
        })
    }

    /// Returns the complete request, if it is for a key and no watch: others may have unbounded
    /// responses, or such that begin before they are complete.
    pub(super) fn buffered<'a>(&'a self, body: &'a Bytes) -> Option<BufferedRequest<'a>> {
        self.shard.is_some().then_some(BufferedRequest {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            body,
        })
    }

    /// Builds the request for one attempt.
    pub(super) fn to_request(&self, body: UpstreamBody) -> Request<UpstreamBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers.clone();
        if matches!(request.body(), UpstreamBody::Streaming { .. }) {
            remove_zero_content_length(request.headers_mut());
        }
        request
    }
}

/// Removes a content length of 0, so that the end of the body decides whether it is empty. Over
/// HTTP/2 a client may declare no bytes and send some nevertheless; a node that expects none
/// responds without waiting for the stream's end.
fn remove_zero_content_length(headers: &mut HeaderMap) {
    if headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|value| value == "0")
    {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Returns the region that the host names; `None` for the global name.
fn region_of_host(
    uri: &Uri,
    headers: &HeaderMap,
    settings: &ProxySettings,
    view: &TopologyView,
) -> Result<Option<usize>, Refusal> {
    let host = headers.get(header::HOST);
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    match select_region(authority, settings.domain.as_str()) {
        RegionSelector::Nearest => Ok(None),
        RegionSelector::Named(name) => {
            let region = view.region_index(name);
            let unknown = || Refusal::unknown_region(&view.region_names());
            region.ok_or_else(unknown).map(Some)
        }
    }
}

/// Reduces a URI to path and query.
fn origin_form(uri: Uri) -> Uri {
    let path = uri.into_parts().path_and_query;
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// Returns the shard of the key that a path names, if it names one. A path that nodes refuse has
/// none.
fn shard_of_path(path: &str, shards: u16) -> Option<u16> {
    let (bucket, key) = key_path(path)?.split_once('/')?;
    let bucket = percent::decode_path(bucket).ok()?;
    let key = percent::decode_path(key).ok()?;
    Some(shard_of(&bucket, &key, shards))
}

fn is_conditional(headers: &HeaderMap) -> bool {
    [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ]
    .iter()
    .any(|name| headers.contains_key(name))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let expectation = headers.get(header::EXPECT);
    expectation.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_same_shards_as_at_nodes() {
        let bucket = "a0h6hqok6kAT3d";
        let of = |key: &str| shard_of_path(&format!("/kv/{bucket}/{key}"), 8);
        let first: Vec<Option<u16>> = (0..4).map(|n| of(&format!("key-{n}"))).collect();
        assert_eq!(first, [Some(7), Some(3), Some(3), Some(1)]);
        assert_eq!(of("%6bey-0"), Some(7), "decoded once");
        assert_eq!(of("a/b"), of("a%2Fb"), "a slash is part of a key");
        assert_ne!(of("a%252Fb"), None);
    }

    #[test]
    fn paths_without_a_key_have_no_shard() {
        for path in [
            "/",
            "/kv/",
            "/kv/b",
            "/buckets/x",
            "/kv/b/%zz",
            "/KV/b/k",
            "*",
        ] {
            assert_eq!(shard_of_path(path, 8), None, "{path}");
        }
    }

    /// Parses the head of a request to a router of one region.
    fn head_of(
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> RequestHead {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        let kind = RequestKind::of(request.method(), path, request.headers());
        let origin = RequestOrigin {
            connection: 0,
            request: 0,
            peer: "9.9.9.9:1".parse().unwrap(),
            is_encrypted: false,
            is_router: false,
        };
        let view = TopologyView {
            shards: 8,
            regions: vec![],
            current: 0,
        };
        let id = HeaderValue::from_static("id");
        let parts = request.into_parts().0;
        RequestHead::new(
            parts,
            kind,
            &id,
            &origin,
            &ProxySettings::for_tests(),
            &view,
        )
        .unwrap()
    }

    #[test]
    fn watches_are_for_any_node_and_never_sent_as_calls() {
        let watch = head_of(Method::GET, "/kv/b/k", &[("accept", "text/event-stream")]);
        assert_eq!((watch.shard, watch.is_safe), (None, true));
        assert!(!watch.is_for_current_region, "another region may answer");
        assert!(watch.buffered(&Bytes::new()).is_none());
        let read = head_of(Method::GET, "/kv/b/k", &[("accept", "*/*")]);
        assert!(read.shard.is_some() && read.buffered(&Bytes::new()).is_some());
    }

    #[test]
    fn imports_may_be_executed_before_their_body_was_read() {
        let import = head_of(Method::POST, "/buckets/b/import", &[]);
        assert!(!import.is_safe && !import.is_body_read_first);
        let create = head_of(Method::POST, "/buckets", &[]);
        assert!(!create.is_safe && create.is_body_read_first);
    }

    #[test]
    fn only_the_current_region_may_serve_what_is_for_one_region() {
        let condition: &[_] = &[("if-match", "\"1\"")];
        for (method, path, headers, is_for_current) in [
            (Method::GET, "/buckets/b/export", &[][..], true),
            (Method::POST, "/buckets/b/import", &[][..], true),
            (Method::POST, "/kv/b", &[][..], true),
            (Method::PATCH, "/kv/b/k", &[][..], true),
            (Method::PUT, "/kv/b/k", condition, true),
            (Method::PUT, "/kv/b/k", &[][..], false),
            (Method::GET, "/kv/b", &[][..], false),
            (Method::PATCH, "/buckets/b", &[][..], false),
        ] {
            let head = head_of(method, path, headers);
            assert_eq!(head.is_for_current_region, is_for_current, "{path}");
        }
    }

    #[test]
    fn absolute_targets_are_reduced_to_paths() {
        let uri = |text: &str| origin_form(text.parse().unwrap()).to_string();
        assert_eq!(uri("http://api.x/kv/b/k?ttl=5"), "/kv/b/k?ttl=5");
        assert_eq!(uri("http://api.x"), "/");
    }
}
