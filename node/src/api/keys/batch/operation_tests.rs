//! Lines of batches, good and bad.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::service::Version;

/// 2030-01-31 12:00:00.
const NOON: Nanos = 1_896_091_200_000_000_000;
const SECOND: Nanos = 1_000_000_000;

fn parse(json: &str) -> Result<Operation, String> {
    Operation::parse(json.as_bytes(), NOON).map_err(|error| error.to_string())
}

fn put(json: &str) -> PutAction {
    match parse(json).unwrap().action {
        Action::Put(put) => put,
        other => panic!("{other:?}"),
    }
}

fn touch(json: &str) -> Touch {
    match parse(json).unwrap().action {
        Action::Touch(touch) => touch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_put_needs_a_key_and_a_value() {
    let operation = parse(r#" {"key":"a/\u00fc","value":"line\nline"} "#).unwrap();
    assert_eq!(operation.key, "a/ü");
    let simple = put(r#"{"op":"put","key":"k","value":""}"#);
    assert_eq!(simple.value, "");
    assert_eq!(
        (simple.content_type, simple.metadata),
        (Bytes::new(), Bytes::new())
    );
    assert_eq!(
        (simple.expiry, simple.precondition),
        (None, Precondition::None)
    );
    let full = put(
        r#"{"op":"put","key":"k","value_base64":"AP8=","content_type":"text/plain",
            "metadata":{ "a" : "ü" },"ttl":"1h30m","if_none_match":"*"}"#,
    );
    assert_eq!(&full.value[..], [0, 0xff]);
    assert_eq!(full.content_type, "text/plain");
    assert_eq!(full.metadata, r#"{"a":"\u00fc"}"#);
    assert_eq!(full.expiry, Some(Expiry::After(Duration::from_secs(5400))));
    assert_eq!(full.precondition, Precondition::Absent);
}

#[test]
fn bulk_writes_of_workers_kv_are_puts() {
    let line =
        put(r#"{"key":"k","value":"aGk=","base64":true,"expiration_ttl":60,"metadata":{"n":1}}"#);
    assert_eq!(
        (line.value.as_ref(), line.metadata.as_ref()),
        (&b"hi"[..], &br#"{"n":1}"#[..])
    );
    assert_eq!(line.expiry, Some(Expiry::After(Duration::from_secs(60))));
    let line = put(r#"{"key":"k","value":"aGk=","base64":false,"expiration":1896091201}"#);
    assert_eq!(line.value, "aGk=");
    assert_eq!(line.expiry, Some(Expiry::At(NOON + SECOND)));
}

#[test]
fn expiries_have_several_forms() {
    let of = |field: &str| put(&format!(r#"{{"key":"k","value":"v",{field}}}"#)).expiry;
    let after = |seconds| Some(Expiry::After(Duration::from_secs(seconds)));
    assert_eq!(of(r#""ttl":90"#), after(90));
    assert_eq!(of(r#""ttl":"90""#), after(90));
    let at = Some(Expiry::At(NOON + SECOND));
    assert_eq!(of(r#""expires_at":1896091201"#), at);
    assert_eq!(of(r#""expires_at":"1896091201""#), at);
    assert_eq!(of(r#""expires_at":"2030-01-31T12:00:01Z""#), at);
    for never in [
        r#""expires_at":null"#,
        r#""persist":true"#,
        r#""persist":true,"expires_at":null"#,
    ] {
        assert_eq!(of(never), Some(Expiry::Never), "{never}");
    }
    assert_eq!(of(r#""persist":false"#), None);
}

#[test]
fn touches_change_expiry_or_metadata() {
    let both = touch(r#"{"op":"touch","key":"k","ttl":5,"metadata":{"a":1}}"#);
    assert_eq!(both.expiry, Some(Expiry::After(Duration::from_secs(5))));
    assert_eq!(both.metadata.unwrap(), r#"{"a":1}"#);
    let persist = touch(r#"{"op":"touch","key":"k","persist":true}"#);
    assert_eq!(
        (persist.expiry, persist.metadata),
        (Some(Expiry::Never), None)
    );
    for none in ["{}", "null"] {
        let line = format!(r#"{{"op":"touch","key":"k","metadata":{none}}}"#);
        assert_eq!(touch(&line).metadata, Some(Bytes::new()));
    }
}

#[test]
fn conditions_are_etags_with_or_without_quotes() {
    let of = |condition: Value, name: &str| {
        let line = json!({"op": "get", "key": "k", name: condition}).to_string();
        match parse(&line).map(|operation| operation.action) {
            Ok(Action::Get(precondition)) => Ok(precondition),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    };
    let version = Version {
        time: 16,
        region: 2,
    };
    let text = "0000000000000010-2";
    for tag in [text.to_owned(), format!("\"{text}\""), format!(" {text} ")] {
        let versions = Ok(Precondition::Versions(vec![version]));
        assert_eq!(of(json!(tag), "if_match"), versions);
        let others = Ok(Precondition::NotVersions(vec![version]));
        assert_eq!(of(json!(tag), "if_none_match"), others);
    }
    assert_eq!(of(json!("*"), "if_match"), Ok(Precondition::Exists));
    assert_eq!(of(json!("*"), "if_none_match"), Ok(Precondition::Absent));
    // A tag of another form matches no version.
    assert_eq!(
        of(json!("abc"), "if_match"),
        Ok(Precondition::Versions(vec![]))
    );
    let weak = format!("W/\"{text}\"");
    assert_eq!(
        of(json!(weak), "if_match"),
        Ok(Precondition::Versions(vec![]))
    );
    let long = "x".repeat(MAX_CONDITION_BYTES + 1);
    for tag in ["", " ", "a b", "a,b", "\"a", &long] {
        let error = of(json!(tag), "if_match").unwrap_err();
        assert_eq!(
            error, "if_match must be an ETag, with or without quotes, or *",
            "{tag}"
        );
    }
}

/// Malformed lines, and the messages of their refusals.
const MALFORMED: &[(&str, &str)] = &[
    (
        "5",
        "invalid type: integer `5`, expected an operation as a JSON object, such as \
               {\"key\":\"k\",\"value\":\"v\"}",
    ),
    (
        r#"{"key":"k","value":"v""#,
        "EOF while parsing an object, at its byte 22",
    ),
    (
        r#"{"key":"k","value":"v"} x"#,
        "trailing characters, at its byte 25",
    ),
    (
        r#"{"key":"k" "value":"v"}"#,
        "expected `,` or `}`, at its byte 12",
    ),
    (
        r#"{"key":"k","vlaue":"v"}"#,
        "no field is called `vlaue`: did you mean value?",
    ),
    (
        r#"{"key":"k","expire_at":1}"#,
        "no field is called `expire_at`: did you mean expires_at?",
    ),
    (r#"{"key":"k","value":"v","key":"l"}"#, "key is given twice"),
    (r#"{"value":"v"}"#, "key is missing"),
    (r#"{"key":5,"value":"v"}"#, "key must be a string"),
    (
        r#"{"key":"k"}"#,
        "a put needs value, a string, or value_base64",
    ),
    (r#"{"key":"k","value":5}"#, "value must be a string"),
    (r#"{"key":"k","value":null}"#, "value must be a string"),
    (
        r#"{"key":"k","value":"a","value_base64":"YQ=="}"#,
        "give value or value_base64, not both of them",
    ),
    (
        r#"{"key":"k","value_base64":"YQ==","base64":true}"#,
        "base64 belongs to value, and not to value_base64",
    ),
    (
        r#"{"key":"k","value":"v","base64":1}"#,
        "base64 must be true or false",
    ),
    (
        r#"{"op":"set","key":"k"}"#,
        "op must be put, get, delete or touch, and not `set`",
    ),
    (
        r#"{"op":"delete","key":"k","value":"v"}"#,
        "value is no field of a delete",
    ),
    (
        r#"{"op":"get","key":"k","ttl":5}"#,
        "ttl is no field of a get",
    ),
    (
        r#"{"op":"touch","key":"k","expiration":5}"#,
        "expiration is no field of a touch",
    ),
    (
        r#"{"op":"touch","key":"k"}"#,
        "a touch needs ttl, expires_at, persist or metadata",
    ),
    (
        r#"{"key":"k","value":"v","ttl":0}"#,
        "ttl must be at least one second",
    ),
    (
        r#"{"key":"k","value":"v","ttl":1.5}"#,
        "ttl must be whole seconds, or numbers with units, as in 5s, 10m, 1h30m or 7d",
    ),
    (
        r#"{"key":"k","value":"v","ttl":null}"#,
        "ttl must be a number of seconds, or a string",
    ),
    (
        r#"{"key":"k","value":"v","expiration":"5"}"#,
        "expiration must be a number of seconds",
    ),
    (
        r#"{"key":"k","value":"v","expires_at":1}"#,
        "expires_at must be in the future",
    ),
    (
        r#"{"key":"k","value":"v","ttl":5,"persist":true}"#,
        "ttl, expires_at and persist exclude each other: give one of them",
    ),
    (
        r#"{"key":"k","value":"v","ttl":5,"expires_at":null}"#,
        "ttl, expires_at and persist exclude each other: give one of them",
    ),
    (
        r#"{"key":"k","value":"v","ttl":5,"expiration_ttl":5}"#,
        "give ttl or expiration_ttl, not both of them",
    ),
    (
        r#"{"key":"k","value":"v","content_type":"a\nb"}"#,
        "content_type must be visible ASCII of at most 256 bytes",
    ),
    (
        r#"{"key":"k","value":"v","if_match":"*","if_none_match":"*"}"#,
        "give if_match or if_none_match, not both of them",
    ),
];

#[test]
fn malformed_lines_are_refused_with_what_is_right() {
    for (line, message) in MALFORMED {
        assert_eq!(parse(line).unwrap_err(), *message, "{line}");
    }
    for (line, beginning) in [
        (
            r#"{"key":"k","value":"\ud800"}"#,
            "value must be a string: ",
        ),
        (
            r#"{"key":"k","value_base64":"a"}"#,
            "value_base64 must be base64, ",
        ),
        (
            r#"{"key":"k","value":"-_-_","base64":true}"#,
            "value must be base64, ",
        ),
        (
            r#"{"key":"k","value":"v","metadata":5}"#,
            "metadata must be a JSON object",
        ),
        (
            r#"{"key":"k","value":"v","colour":5}"#,
            "no field is called `colour`: there are op, ",
        ),
    ] {
        let message = parse(line).unwrap_err();
        assert!(message.starts_with(beginning), "{line}: {message}");
    }
    let invalid = Operation::parse(b"{\"key\":\"\xff\",\"value\":\"v\"}", NOON);
    assert!(invalid.is_err());
}

/// An operation that a client serializes, and what becomes of it.
#[derive(Clone, Debug)]
struct ClientPut {
    key: String,
    value: Vec<u8>,
    is_base64: bool,
    ttl: Option<u32>,
    content_type: Option<String>,
    metadata: Option<Map<String, Value>>,
}

impl ClientPut {
    fn to_json(&self) -> String {
        let mut line = json!({"key": self.key});
        if self.is_base64 {
            line["value_base64"] = STANDARD.encode(&self.value).into();
        } else {
            line["value"] = String::from_utf8_lossy(&self.value).into();
        }
        if let Some(ttl) = self.ttl {
            line["ttl"] = ttl.into();
        }
        if let Some(content_type) = &self.content_type {
            line["content_type"] = content_type.clone().into();
        }
        if let Some(metadata) = &self.metadata {
            line["metadata"] = metadata.clone().into();
        }
        line.to_string()
    }
}

fn client_puts() -> impl Strategy<Value = ClientPut> {
    let metadata = proptest::collection::btree_map("[a-zü]{0,8}", any::<i64>(), 0..4);
    let metadata = metadata.prop_map(|fields| {
        let fields = fields.into_iter();
        fields
            .map(|(name, number)| (name, number.into()))
            .collect::<Map<String, Value>>()
    });
    (
        any::<String>(),
        any::<Vec<u8>>(),
        any::<bool>(),
        proptest::option::of(1_u32..1_000_000),
        proptest::option::of("[ -~]{0,256}"),
        proptest::option::of(metadata),
    )
        .prop_map(
            |(key, value, is_base64, ttl, content_type, metadata)| ClientPut {
                key,
                value,
                is_base64,
                ttl,
                content_type,
                metadata,
            },
        )
}

proptest! {
    #[test]
    fn serialized_puts_are_parsed(client in client_puts()) {
        let operation = parse(&client.to_json()).unwrap();
        prop_assert_eq!(&operation.key[..], client.key.as_bytes());
        let Action::Put(put) = operation.action else {
            panic!("not a put");
        };
        if client.is_base64 {
            prop_assert_eq!(&put.value[..], &client.value[..]);
        } else {
            let text = String::from_utf8_lossy(&client.value);
            prop_assert_eq!(&put.value[..], text.as_bytes());
        }
        let ttl = client.ttl.map(|ttl| Expiry::After(Duration::from_secs(ttl.into())));
        prop_assert_eq!(put.expiry, ttl);
        let content_type = client.content_type.unwrap_or_default();
        prop_assert_eq!(&put.content_type[..], content_type.as_bytes());
        let metadata = client.metadata.unwrap_or_default();
        let stored = match &put.metadata[..] {
            b"" => Map::new(),
            stored => serde_json::from_slice(stored).unwrap(),
        };
        prop_assert_eq!(stored, metadata);
    }

    #[test]
    fn never_panics(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        let _ = Operation::parse(text.as_bytes(), NOON);
        let _ = Operation::parse(&bytes, NOON);
    }

    #[test]
    fn never_panics_on_lookalikes(
        fields in proptest::collection::vec(
            (
                prop_oneof![Just("op"), Just("key"), Just("value"), Just("ttl"), Just("expires_at"),
                    Just("persist"), Just("metadata"), Just("if_match"), Just("base64")],
                prop_oneof![Just("\"k\""), Just("null"), Just("true"), Just("5"), Just("{}"),
                    Just("\"get\""), Just("\"touch\""), Just("-1e9"), Just("[1]")],
            ),
            0..6,
        ),
        now: u64,
    ) {
        let fields: Vec<String> = fields
            .into_iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        let line = format!("{{{}}}", fields.join(","));
        let _ = Operation::parse(line.as_bytes(), now);
    }
}
