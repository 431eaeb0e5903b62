//! Answers of a node on one key: to a request, in a line for a batch, in a list.

use serde_json::Value;

use super::call_record::{Action, Outcome};
use super::checker::{ABSENT, Content, Effect, WriteId};
use cloudkv_test_harness::HttpResponse;

/// Header of metadata.
pub(super) const METADATA_HEADER: &str = "x-cloudkv-metadata";

/// Field of the metadata that clients write: the number of the write.
const METADATA_FIELD: &str = "write";

/// Returns metadata with the number of a write, in the compact form in which it comes back.
pub(super) fn metadata_json(write: WriteId) -> Value {
    let mut metadata = Value::Null;
    metadata[METADATA_FIELD] = write.into();
    metadata
}

/// Answer on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    /// True if an error says that there is no such key.
    is_not_found: bool,
    /// Version of the key.
    pub etag: Option<Box<str>>,
    /// Content of the key; `None` if the answer has none that a client wrote.
    pub content: Option<Content>,
}

impl Answer {
    /// Reads the response to a request for one key.
    pub(super) fn of_response(response: &HttpResponse) -> Self {
        Self {
            status: response.status,
            is_not_found: response.status == 404 && response.error_code() == "not_found",
            etag: response.find_header("etag").map(Box::from),
            content: parse_content(&response.body, response.find_header(METADATA_HEADER)),
        }
    }

    /// Reads the line of an operation in the answer to a batch.
    pub(super) fn of_line(line: &Value) -> Self {
        let status = line["status"].as_u64().unwrap_or_default();
        let status = u16::try_from(status).unwrap_or_default();
        Self {
            status,
            is_not_found: status == 404 && line["error"] == "not_found",
            ..Self::of_listed(line)
        }
    }

    /// Reads the entry of a key in a list with values.
    pub(super) fn of_listed(entry: &Value) -> Self {
        let value = entry["value"].as_str();
        let version = entry["version"].as_str();
        Self {
            status: 200,
            is_not_found: false,
            etag: version.map(|version| format!("\"{version}\"").into()),
            content: value.and_then(|value| content_of(value, &entry["metadata"])),
        }
    }

    /// Returns what the answer says of a request; `None` if no client should get it.
    pub(super) fn outcome(&self, action: Action) -> Option<Outcome> {
        match (self.status, action.effect()) {
            (200, Effect::Nothing) => self.content.map(Outcome::Read),
            (404, Effect::Nothing) if self.is_not_found => Some(Outcome::Read(ABSENT)),
            (404, Effect::Touch(_)) if self.is_not_found => Some(Outcome::NotFound),
            (200, Effect::Put(_) | Effect::Delete | Effect::Touch(_)) => Some(Outcome::Written),
            (412, _) if action.is_conditional() => Some(Outcome::ConditionFailed),
            (503, _) => Some(Outcome::NotDone),
            (504, _) => Some(Outcome::Unknown),
            _ => None,
        }
    }
}

/// Parses a value and metadata as responses have them; `None` if no client wrote them.
pub(super) fn parse_content(value: &[u8], metadata: Option<&str>) -> Option<Content> {
    let value = std::str::from_utf8(value).ok()?;
    let metadata = match metadata {
        Some(text) => serde_json::from_str(text).ok()?,
        None => Value::Null,
    };
    content_of(value, &metadata)
}

/// Parses a value and metadata, which is null if there is none.
fn content_of(value: &str, metadata: &Value) -> Option<Content> {
    let value = value.trim().parse::<WriteId>().ok();
    let value = value.filter(|value| *value != 0)?;
    let metadata = match metadata {
        Value::Null => 0,
        metadata => {
            let write = metadata[METADATA_FIELD].as_u64()?;
            (*metadata == metadata_json(write)).then_some(write)?
        }
    };
    Some(Content { value, metadata })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOUCH: Action = Action::Touch(9);

    #[test]
    fn lines_have_the_outcome_of_their_operation() {
        let content = Content::plain(3).touched(7);
        let put = Action::Put(Content::plain(4));
        let create = Action::Create(Content::plain(4));
        let value = json!({"key": "k", "status": 200, "version": "0a-1", "value": "3",
                           "metadata": {"write": 7}});
        let missing = json!({"key": "k", "status": 404, "error": "not_found"});
        let no_bucket = json!({"key": "k", "status": 404, "error": "unknown_bucket"});
        let line = |status: u16| json!({"key": "k", "status": status, "version": "0b-1"});
        for (line, action, outcome) in [
            (&value, Action::Get, Some(Outcome::Read(content))),
            (&missing, Action::Get, Some(Outcome::Read(ABSENT))),
            (&missing, TOUCH, Some(Outcome::NotFound)),
            (&missing, put, None),
            (&no_bucket, Action::Get, None),
            (&no_bucket, TOUCH, None),
            (&line(200), put, Some(Outcome::Written)),
            (&line(200), TOUCH, Some(Outcome::Written)),
            (&line(200), Action::Get, None),
            (&line(412), create, Some(Outcome::ConditionFailed)),
            (&line(412), put, None),
            (&line(412), TOUCH, None),
            (&line(503), put, Some(Outcome::NotDone)),
            (&line(504), put, Some(Outcome::Unknown)),
            (&line(500), put, None),
            (&json!({}), put, None),
        ] {
            let answer = Answer::of_line(line);
            assert_eq!(answer.outcome(action), outcome, "{line} for {action:?}");
        }
        assert_eq!(Answer::of_line(&value).etag.as_deref(), Some("\"0a-1\""));
    }

    #[test]
    fn contents_are_what_clients_write() {
        let parsed = |value: &str, metadata: Value| content_of(value, &metadata);
        assert_eq!(parsed("3", Value::Null), Some(Content::plain(3)));
        let content = Content::with_metadata(3);
        assert_eq!(parsed("3", metadata_json(3)), Some(content));
        for value in ["", "0", "x", "-1"] {
            assert_eq!(parsed(value, Value::Null), None, "{value}");
        }
        for metadata in [
            json!({}),
            json!({"write": "3"}),
            json!({"write": 3, "x": 1}),
        ] {
            assert_eq!(parsed("3", metadata.clone()), None, "{metadata}");
        }
        assert_eq!(metadata_json(3).to_string(), r#"{"write":3}"#);
        assert_eq!(parse_content(b"3", Some(r#"{"write":3}"#)), Some(content));
        assert_eq!(parse_content(b"3", None), Some(Content::plain(3)));
        assert_eq!(parse_content(b"3", Some("x")), None);
    }
}
