//! Event streams, which lists and GET of a key answer to clients that ask for them.

use utoipa::openapi::Content;

use super::operation::text_content;

/// Events, as an example.
const EXAMPLE: &str = "\
    retry: 2000\n\
    event: ready\nid: AXUQMycBIh0bqKtqzDMqKys\ndata: {\"region\":\"eu\"}\n\n\
    event: put\nid: AXUQMycBIh0bqKtqzDMrKys\n\
    data: {\"name\":\"fruit/apple\",\"size\":5,\"version\":\"18ead8c75626a60c-1\",\
    \"modified_at\":\"2026-11-24T02:02:31.992752Z\",\"expires_at\":null,\
    \"content_type\":\"text/plain\",\"metadata\":null}\n\n\
    event: delete\nid: AXUQMycBIh0bqKtqzDMsKys\n\
    data: {\"name\":\"fruit/apple\",\"version\":\"18ead8c7b43a9f51-1\"}\n\n";

/// Returns the content of an event stream.
pub(super) fn events() -> (&'static str, Content) {
    text_content("text/event-stream", EXAMPLE)
}
