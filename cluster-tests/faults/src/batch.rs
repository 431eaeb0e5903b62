//! Batches: requests with several operations, and what their answers say of each.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answer::{Answer, metadata_json};
use super::call_record::Action;
use super::checker::{BatchPosition, Effect};
use super::history::KeyName;
use cloudkv_test_harness::{Bucket, RawRequest};

/// Operation of a batch.
#[derive(Clone, Debug)]
pub(super) struct BatchOperation {
    pub key: KeyName,
    pub action: Action,
    /// ETag of the content that a condition requires.
    pub etag: Option<Box<str>>,
    /// Time to live of the written value, in seconds.
    pub ttl: Option<u64>,
    /// Content type of the written value.
    pub content_type: Option<String>,
}

impl BatchOperation {
    /// Creates an operation on a key.
    pub(super) fn new(key: KeyName, action: Action) -> Self {
        Self {
            key,
            action,
            etag: None,
            ttl: None,
            content_type: None,
        }
    }

    fn to_json(&self) -> Value {
        let op = match self.action.effect() {
            Effect::Nothing => "get",
            Effect::Put(_) => "put",
            Effect::Delete => "delete",
            Effect::Touch(_) => "touch",
        };
        let mut line = json!({"op": op, "key": self.key.to_string()});
        match self.action.effect() {
            Effect::Put(content) => {
                line["value"] = content.value.to_string().into();
                if content.metadata != 0 {
                    line["metadata"] = metadata_json(content.metadata);
                }
            }
            Effect::Touch(metadata) => line["metadata"] = metadata_json(metadata),
            Effect::Nothing | Effect::Delete => {}
        }
        if let Action::Create(_) = self.action {
            line["if_none_match"] = "*".into();
        }
        if let Some(etag) = &self.etag {
            line["if_match"] = (&**etag).into();
        }
        if let Some(ttl) = self.ttl {
            line["ttl"] = ttl.into();
        }
        if let Some(content_type) = &self.content_type {
            line["content_type"] = content_type.as_str().into();
        }
        line
    }
}

/// Builds the request of a batch.
pub(super) fn build_request(
    bucket: &Bucket,
    operations: &[BatchOperation],
    token: Option<&str>,
) -> RawRequest {
    let lines = operations.iter();
    let body: String = lines
        .map(|operation| format!("{}\n", operation.to_json()))
        .collect();
    let request = RawRequest::new("POST", &bucket.listing_path());
    let request = request.header("Content-Type", "application/x-ndjson");
    let request = match token {
        Some(token) => request.header("X-CloudKV-Min-Version", token),
        None => request,
    };
    request.parse_body(body.as_bytes())
}

/// Reads the lines of an answer; `None` if they aren't those of these operations.
pub(super) fn parse_answers(body: &str, operations: &[BatchOperation]) -> Option<Vec<Answer>> {
    let lines = body.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().ok()?;
    let is_answered =
        |(line, operation): (&Value, &BatchOperation)| line["key"] == operation.key.to_string();
    let is_complete =
        lines.len() == operations.len() && lines.iter().zip(operations).all(is_answered);
    is_complete.then(|| lines.iter().map(Answer::of_line).collect())
}

/// Returns the position of each operation among those on its key. A node executes the operations on
/// a key one after the other, except that it may do reads with no write in between at the same
/// time.
pub(super) fn positions(batch: u64, operations: &[BatchOperation]) -> Vec<BatchPosition> {
    let mut last: HashMap<KeyName, (u32, bool)> = HashMap::new();
    let positions = operations.iter().map(|operation| {
        let is_read = operation.action.effect() == Effect::Nothing;
        let stage = match last.get(&operation.key) {
            None => 0,
            Some((stage, true)) if is_read => *stage,
            Some((stage, _)) => stage + 1,
        };
        last.insert(operation.key, (stage, is_read));
        BatchPosition { batch, stage }
    });
    positions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Content;

    fn operation(number: u64, action: Action) -> BatchOperation {
        let generation = 1;
        BatchOperation::new(KeyName { generation, number }, action)
    }

    #[test]
    fn operations_become_lines() {
        let (was, content) = (Content::plain(3), Content::with_metadata(4));
        let conditional = |action| BatchOperation {
            etag: Some("\"0a-1\"".into()),
            ..operation(2, action)
        };
        let put = BatchOperation {
            ttl: Some(5),
            content_type: Some("text/x".into()),
            ..operation(2, Action::Put(content))
        };
        let metadata = 7;
        for (operation, expected) in [
            (operation(2, Action::Get), json!({"op": "get"})),
            (
                put,
                json!({"op": "put", "value": "4", "metadata": {"write": 4}, "ttl": 5,
                       "content_type": "text/x"}),
            ),
            (
                operation(2, Action::Create(was)),
                json!({"op": "put", "value": "3", "if_none_match": "*"}),
            ),
            (
                conditional(Action::PutIfMatch { was, content }),
                json!({"op": "put", "value": "4", "metadata": {"write": 4},
                       "if_match": "\"0a-1\""}),
            ),
            (operation(2, Action::Delete), json!({"op": "delete"})),
            (
                conditional(Action::DeleteIfMatch(was)),
                json!({"op": "delete", "if_match": "\"0a-1\""}),
            ),
            (
                operation(2, Action::Touch(metadata)),
                json!({"op": "touch", "metadata": {"write": 7}}),
            ),
            (
                conditional(Action::TouchIfMatch { was, metadata }),
                json!({"op": "touch", "metadata": {"write": 7}, "if_match": "\"0a-1\""}),
            ),
        ] {
            let mut expected = expected;
            expected["key"] = "g1/k2".into();
            assert_eq!(operation.to_json(), expected);
        }
    }

    #[test]
    fn operations_on_one_key_are_in_stages() {
        let delete = |key| operation(key, Action::Delete);
        let get = |key| operation(key, Action::Get);
        let operations = [
            delete(1),
            get(1),
            delete(2),
            get(1),
            get(2),
            delete(1),
            delete(1),
            get(3),
        ];
        let positions = positions(9, &operations);
        let stages: Vec<u32> = positions.iter().map(|position| position.stage).collect();
        assert_eq!(stages, [0, 1, 0, 1, 1, 2, 3, 0]);
        assert!(positions.iter().all(|position| position.batch == 9));
    }

    #[test]
    fn an_answer_has_a_line_for_each_operation_in_order() {
        let operations = [operation(1, Action::Delete), operation(2, Action::Delete)];
        let lines = [
            r#"{"key":"g1/k1","status":200}"#,
            r#"{"key":"g1/k2","status":503}"#,
        ];
        let answers = |lines: &[&str]| parse_answers(&lines.join("\n"), &operations);
        assert_eq!(answers(&lines).map(|answers| answers.len()), Some(2));
        let [first, second] = lines;
        for other in [
            vec![],
            vec![first],
            vec![second, first],
            vec![first, second, second],
            vec![first, "x"],
        ] {
            assert_eq!(answers(&other), None, "{other:?}");
        }
    }
}
