//! Requests for one key.

use super::answer::{METADATA_HEADER, metadata_json};
use super::call_record::Action;
use super::checker::Effect;
use super::history::KeyName;
use cloudkv_test_harness::{Bucket, RawRequest};

/// Optional parts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestOptions<'a> {
    /// Session token.
    pub token: Option<&'a str>,
    /// Time to live of the written value, in seconds.
    pub ttl: Option<u64>,
    /// Content type of the written value.
    pub content_type: Option<&'a str>,
    /// True if the node's own replica may answer the read (`consistency=eventual`).
    pub is_eventual: bool,
}

/// Builds the request of a call. `etag` is that of the content which its condition requires.
pub(super) fn build_request(
    bucket: &Bucket,
    key: KeyName,
    action: Action,
    etag: Option<&str>,
    options: RequestOptions<'_>,
) -> RawRequest {
    let mut path = bucket.key_path(&key.to_string());
    match options.ttl {
        Some(ttl) => path += &format!("?ttl={ttl}"),
        None if options.is_eventual => path += "?consistency=eventual",
        None => {}
    }
    let (method, value, metadata) = match action.effect() {
        Effect::Nothing => ("GET", None, 0),
        Effect::Put(content) => ("PUT", Some(content.value), content.metadata),
        Effect::Delete => ("DELETE", None, 0),
        Effect::Touch(metadata) => ("PATCH", None, metadata),
    };
    let metadata = (metadata != 0).then(|| metadata_json(metadata).to_string());
    let is_creation = matches!(action, Action::Create(_));
    let headers = [
        ("X-CloudKV-Min-Version", options.token),
        ("Content-Type", options.content_type),
        (METADATA_HEADER, metadata.as_deref()),
        ("If-Match", etag),
        ("If-None-Match", is_creation.then_some("*")),
    ];
    let given = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let request = given.fold(RawRequest::new(method, &path), |request, (name, value)| {
        request.header(name, value)
    });
    match value {
        Some(value) => request.parse_body(value.to_string().as_bytes()),
        None => request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Content;

    fn request(action: Action, etag: Option<&str>, options: RequestOptions<'_>) -> String {
        let bucket = Bucket {
            id: "b".into(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        };
        let key = KeyName {
            generation: 1,
            number: 2,
        };
        let request = build_request(&bucket, key, action, etag, options);
        String::from_utf8(request.bytes()).unwrap()
    }

    #[test]
    fn actions_become_requests() {
        let (was, content) = (Content::plain(3), Content::with_metadata(4));
        let none = RequestOptions::default();
        let get = request(Action::Get, None, none);
        assert_eq!(get, "GET /kv/b/g1/k2 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let options = RequestOptions {
            ttl: Some(5),
            token: Some("t"),
            ..none
        };
        let put = request(Action::Put(content), None, options);
        let head = "PUT /kv/b/g1/k2?ttl=5 HTTP/1.1\r\nHost: localhost\r\n\
                    X-CloudKV-Min-Version: t\r\nx-cloudkv-metadata: {\"write\":4}\r\n\
                    Content-Length: 1\r\n\r\n4";
        assert_eq!(put, head);
        let create = request(Action::Create(was), None, none);
        assert!(create.contains("If-None-Match: *\r\n") && create.ends_with("\r\n\r\n3"));
        assert!(!create.contains("metadata"));
        let touch = Action::TouchIfMatch { was, metadata: 7 };
        let touch = request(touch, Some("\"e\""), none);
        assert!(touch.starts_with("PATCH /kv/b/g1/k2 HTTP/1.1\r\n"));
        assert!(touch.contains("x-cloudkv-metadata: {\"write\":7}\r\nIf-Match: \"e\"\r\n\r\n"));
    }
}
