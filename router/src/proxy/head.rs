//! What a request asks for, and its head as it goes to a node.

use bytes::Bytes;
use cloudkv_common::hash::shard_of;
use cloudkv_common::server::request_id::X_REQUEST_ID;
use cloudkv_common::server::{Origin, percent};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

use super::ProxySettings;
use super::hops;
use super::refusal::Refusal;
use crate::hosts::{Asked, asked};
use crate::topology::View;
use crate::upstream::{Outgoing, Whole};

/// What the paths of keys begin with.
const KV: &str = "/kv/";

/// A request without its body.
#[derive(Debug)]
pub(super) struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// The one region that it is for.
    pub region: Option<usize>,
    /// The shard of its key.
    pub shard: Option<u16>,
    /// Whether it can be sent again when it isn't known whether it was done.
    pub repeatable: bool,
    /// Whether nodes read all of its body before they do anything.
    pub body_first: bool,
    /// Whether it holds a condition, which only one region can judge.
    pub conditional: bool,
    /// Whether the client sends its body only when it is told to.
    pub waits: bool,
}

impl Head {
    /// Reads what came, and makes of it what goes to a node.
    pub fn new(
        parts: Parts,
        id: &HeaderValue,
        origin: &Origin,
        settings: &ProxySettings,
        view: &View,
    ) -> Result<Self, Refusal> {
        let Parts {
            method,
            uri,
            mut headers,
            ..
        } = parts;
        if method == Method::CONNECT {
            return Err(Refusal::connect());
        }
        let region = region(&uri, &headers, settings, view)?;
        let shard = shard(uri.path(), view.shards);
        let waits = waits(&headers);
        let conditional = is_conditional(&headers);
        let repeatable = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        let body_first = matches!(method, Method::PUT | Method::POST | Method::PATCH);
        hops::strip(&mut headers);
        hops::forward(&mut headers, origin, &settings.trusted);
        headers.insert(&X_REQUEST_ID, id.clone());
        let uri = match uri.authority() {
            None => uri,
            Some(authority) => {
                // As RFC 9112, 3.2.2 says: what the target names counts.
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
            shard,
            repeatable,
            body_first,
            conditional,
            waits,
        })
    }

    /// The request as a whole, if it is for a key: others may have answers without end.
    pub fn whole<'a>(&'a self, body: &'a Bytes) -> Option<Whole<'a>> {
        self.shard.is_some().then_some(Whole {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            body,
        })
    }

    /// The request for one try.
    pub fn request(&self, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers.clone();
        if matches!(request.body(), Outgoing::Coming { .. }) {
            promise_no_empty_body(request.headers_mut());
        }
        request
    }
}

/// Lets the end of a body decide that it is empty. Over HTTP/2 a client may promise no byte and send
/// some nevertheless; a node that was promised none answers without waiting for the stream's end.
fn promise_no_empty_body(headers: &mut HeaderMap) {
    if headers.get(header::CONTENT_LENGTH).is_some_and(|value| value == "0") {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// The region that the host names; `None`: the global name.
fn region(
    uri: &Uri,
    headers: &HeaderMap,
    settings: &ProxySettings,
    view: &View,
) -> Result<Option<usize>, Refusal> {
    let host = headers.get(header::HOST);
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    match asked(authority, settings.domain.as_str()) {
        Asked::Nearest => Ok(None),
        Asked::Region(name) => {
            let region = view.region(name);
            let unknown = || Refusal::unknown_region(&view.names());
            region.ok_or_else(unknown).map(Some)
        }
    }
}

/// The path and the query alone.
fn origin_form(uri: Uri) -> Uri {
    let path = uri.into_parts().path_and_query;
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// The shard of the key that a path names, if it names one. A path that a node will refuse has
/// none.
fn shard(path: &str, shards: u16) -> Option<u16> {
    let (bucket, key) = path.strip_prefix(KV)?.split_once('/')?;
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

fn waits(headers: &HeaderMap) -> bool {
    let expects = headers.get(header::EXPECT);
    expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_shard_that_nodes_put_them_on() {
        let bucket = "a0h6hqok6kAT3d";
        let of = |key: &str| shard(&format!("/kv/{bucket}/{key}"), 8);
        let first: Vec<Option<u16>> = (0..4).map(|n| of(&format!("key-{n}"))).collect();
        assert_eq!(first, [Some(7), Some(3), Some(3), Some(1)]);
        assert_eq!(of("%6bey-0"), Some(7), "decoded once");
        assert_eq!(of("a/b"), of("a%2Fb"), "a slash is part of a key");
        assert_ne!(of("a%252Fb"), None);
    }

    #[test]
    fn what_names_no_key_has_no_shard() {
        for path in [
            "/",
            "/kv/",
            "/kv/b",
            "/buckets/x",
            "/kv/b/%zz",
            "/KV/b/k",
            "*",
        ] {
            assert_eq!(shard(path, 8), None, "{path}");
        }
    }

    #[test]
    fn absolute_targets_become_paths() {
        let uri = |text: &str| origin_form(text.parse().unwrap()).to_string();
        assert_eq!(uri("http://api.x/kv/b/k?ttl=5"), "/kv/b/k?ttl=5");
        assert_eq!(uri("http://api.x"), "/");
    }
}
