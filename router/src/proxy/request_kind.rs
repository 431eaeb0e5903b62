//! Kind of a request, which decides how it is forwarded.

use cloudkv_common::event_stream;
use http::{HeaderMap, Method};

/// Prefix of the paths of keys.
const KEY_PATH_PREFIX: &str = "/kv/";
/// Prefix of the paths of buckets.
const BUCKET_PATH_PREFIX: &str = "/buckets/";

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Any that isn't below: the response begins when all is done.
    Plain,
    /// A batch of operations on the keys of a bucket.
    Batch,
    /// A watch of keys, whose response is an event stream.
    EventStream,
    /// An export of a bucket, whose response is long.
    Export,
    /// An import into a bucket: nodes execute it while they read its body, and respond before its
    /// end.
    Import,
}

impl RequestKind {
    /// Returns the kind of a request by its head.
    pub(super) fn of(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        match *method {
            Method::GET if path.starts_with(KEY_PATH_PREFIX) => {
                if event_stream::is_requested(headers) {
                    Self::EventStream
                } else {
                    Self::Plain
                }
            }
            Method::GET if has_action(path, "export") => Self::Export,
            Method::POST if has_action(path, "import") => Self::Import,
            Method::POST if is_bucket_path(path) => Self::Batch,
            _ => Self::Plain,
        }
    }
}

/// Returns the part of a path that names a bucket and a key, if it names keys.
pub(super) fn key_path(path: &str) -> Option<&str> {
    path.strip_prefix(KEY_PATH_PREFIX)
}

/// Returns whether a path names a bucket's keys as a whole.
fn is_bucket_path(path: &str) -> bool {
    key_path(path).is_some_and(|bucket| !bucket.contains('/'))
}

/// Returns whether a path names an action on a bucket, as nodes route it.
fn has_action(path: &str, action: &str) -> bool {
    let rest = path.strip_prefix(BUCKET_PATH_PREFIX);
    let bucket_and_action = rest.and_then(|rest| rest.split_once('/'));
    bucket_and_action.is_some_and(|(bucket, named)| !bucket.is_empty() && named == action)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::ACCEPT;

    use super::*;

    fn kind(method: Method, path: &str, accept: &'static str) -> RequestKind {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        RequestKind::of(&method, path, &headers)
    }

    #[test]
    fn an_event_stream_is_a_get_of_keys_that_accepts_it() {
        for path in ["/kv/b", "/kv/b/", "/kv/b/k", "/kv/b/a/b"] {
            let of = |method, accept| kind(method, path, accept);
            let stream = "text/event-stream";
            assert_eq!(of(Method::GET, stream), RequestKind::EventStream, "{path}");
            assert_eq!(of(Method::GET, "*/*"), RequestKind::Plain, "{path}");
            assert_eq!(of(Method::HEAD, stream), RequestKind::Plain, "{path}");
            assert_eq!(of(Method::PUT, stream), RequestKind::Plain, "{path}");
        }
        for path in ["/buckets", "/ping", "/kv", "/KV/b", "/"] {
            let of_other = kind(Method::GET, path, "text/event-stream");
            assert_eq!(of_other, RequestKind::Plain, "{path}");
        }
    }

    #[test]
    fn a_batch_is_a_post_of_a_bucket() {
        for path in ["/kv/b", "/kv/%62", "/kv/"] {
            assert_eq!(
                kind(Method::POST, path, "*/*"),
                RequestKind::Batch,
                "{path}"
            );
            assert_eq!(kind(Method::GET, path, "*/*"), RequestKind::Plain, "{path}");
        }
        for path in ["/kv/b/", "/kv/b/k", "/kv", "/buckets/b", "/KV/b"] {
            assert_eq!(
                kind(Method::POST, path, "*/*"),
                RequestKind::Plain,
                "{path}"
            );
        }
    }

    #[test]
    fn exports_and_imports_are_actions_on_a_bucket() {
        let of = |method, path| kind(method, path, "*/*");
        let (export, import) = ("/buckets/b/export", "/buckets/b/import");
        assert_eq!(of(Method::GET, export), RequestKind::Export);
        assert_eq!(of(Method::POST, import), RequestKind::Import);
        for (method, path) in [
            (Method::HEAD, export),
            (Method::POST, export),
            (Method::GET, import),
            (Method::GET, "/buckets//export"),
            (Method::GET, "/buckets/export"),
            (Method::POST, "/buckets/b/c/import"),
            (Method::POST, "/buckets/b/import/"),
            (Method::POST, "/buckets/b/Import"),
        ] {
            assert_eq!(of(method, path), RequestKind::Plain, "{path}");
        }
    }
}
