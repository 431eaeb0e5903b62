//! Bodies of batches.

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const NOW: Nanos = 1_000_000_000;
const MAX_OPERATIONS: usize = 4;

/// Returns the form of a batch and its keys, or the code and message of the refusal.
fn parse(
    declared: Option<BatchFormat>,
    body: &str,
) -> Result<(BatchFormat, Vec<String>), (&'static str, String)> {
    let refusal = |error: ApiError| (error.code(), error.into_message());
    let parser = BatchParser::new(declared, body.as_bytes(), MAX_OPERATIONS, NOW);
    let parser = parser.map_err(refusal)?;
    let format = parser.format();
    let operations = parser.finish().map_err(refusal)?.into_iter();
    let keys = operations.map(|operation| String::from_utf8(operation.key.to_vec()).unwrap());
    Ok((format, keys.collect()))
}

fn refusal_of(declared: Option<BatchFormat>, body: &str) -> (&'static str, String) {
    parse(declared, body).unwrap_err()
}

#[test]
fn lines_and_arrays_are_told_apart() {
    let keys = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    let lines = "\n{\"op\":\"get\",\"key\":\"a\"}\r\n  \n {\"op\":\"get\",\"key\":\"b\"}";
    let array = " [ {\"op\":\"get\",\"key\":\"a\"} ,\n{\"op\":\"get\",\"key\":\"b\"}\n] \n";
    let expected = keys(&["a", "b"]);
    for declared in [None, Some(BatchFormat::Lines)] {
        let parsed = parse(declared, lines);
        assert_eq!(parsed, Ok((BatchFormat::Lines, expected.clone())));
    }
    for declared in [None, Some(BatchFormat::Array)] {
        let parsed = parse(declared, array);
        assert_eq!(parsed, Ok((BatchFormat::Array, expected.clone())));
    }
    let (code, message) = refusal_of(Some(BatchFormat::Array), lines);
    assert_eq!(code, "invalid_batch");
    assert!(message.contains("must be an array"), "{message}");
    let (_, message) = refusal_of(Some(BatchFormat::Lines), array);
    assert!(message.starts_with("line 1: invalid type"), "{message}");
}

#[test]
fn a_malformed_operation_is_named_by_its_number() {
    let get = r#"{"op":"get","key":"a"}"#;
    for (body, beginning) in [
        (
            format!("{get}\n\nx\n{get}"),
            "line 3: expected value, at its byte 1",
        ),
        (format!("{get}\n{{}}"), "line 2: key is missing"),
        (format!("{get} {get}"), "line 1: trailing characters"),
        (format!("[{get},{{}}]"), "element 2: key is missing"),
        (format!("[{get},]"), "element 2: expected value"),
        (
            format!("[{get} {get}]"),
            "element 2: a comma or the array's end must come before it",
        ),
        (format!("[{get}"), "element 2: the array has no end"),
        (format!("[{get},"), "element 2: the array has no end"),
        ("[".to_owned(), "element 1: the array has no end"),
        ("[,]".to_owned(), "element 1: expected value"),
        (
            format!("[{get}] {get}"),
            "element 2: the array has ended, and more follows",
        ),
        ("[5]".to_owned(), "element 1: invalid type: integer `5`"),
        ("[tru]".to_owned(), "element 1: expected ident"),
    ] {
        let (code, message) = refusal_of(None, &body);
        assert_eq!(code, "invalid_batch");
        assert!(message.starts_with(beginning), "{body}: {message}");
    }
}

#[test]
fn batches_have_one_operation_at_least_and_no_more_than_the_limit() {
    for body in ["", " \n\n", "[]", " [ ] "] {
        assert_eq!(refusal_of(None, body).0, "invalid_batch", "{body}");
    }
    let get = r#"{"op":"get","key":"a"}"#;
    let lines = |count| vec![get; count].join("\n");
    let array = |count| format!("[{}]", vec![get; count].join(","));
    for body in [lines(MAX_OPERATIONS), array(MAX_OPERATIONS)] {
        assert_eq!(parse(None, &body).unwrap().1.len(), MAX_OPERATIONS);
    }
    for body in [lines(MAX_OPERATIONS + 1), array(MAX_OPERATIONS + 1)] {
        let (code, message) = refusal_of(None, &body);
        assert_eq!(code, "batch_too_large");
        assert_eq!(message, "a batch must have at most 4 operations: split it");
    }
}

#[test]
fn the_content_type_declares_the_form() {
    let declared = |value: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        BatchFormat::declared(&headers).map_err(|error| (error.status().as_u16(), error.code()))
    };
    assert_eq!(declared(None), Ok(None));
    assert_eq!(declared(Some("")), Ok(None));
    for value in [
        "application/x-ndjson",
        "Application/X-NDJSON; charset=utf-8",
    ] {
        assert_eq!(declared(Some(value)), Ok(Some(BatchFormat::Lines)));
    }
    for value in ["application/json", "application/json;charset=utf-8"] {
        assert_eq!(declared(Some(value)), Ok(Some(BatchFormat::Array)));
    }
    for value in ["text/plain", "application/x-www-form-urlencoded", "json"] {
        assert_eq!(declared(Some(value)), Err((415, "unsupported_media_type")));
    }
}

#[test]
fn parsing_in_steps_gives_the_same() {
    let body = "{\"op\":\"get\",\"key\":\"a\"}\n".repeat(MAX_OPERATIONS);
    let parser = || BatchParser::new(None, body.as_bytes(), MAX_OPERATIONS, NOW).unwrap();
    let mut stepwise = parser();
    let mut steps = 1;
    while !stepwise.advance(1).unwrap() {
        steps += 1;
    }
    assert!(steps > MAX_OPERATIONS / 2, "{steps} steps");
    assert_eq!(stepwise.finish().unwrap().len(), MAX_OPERATIONS);
    assert!(parser().advance(usize::MAX).unwrap());
}

proptest! {
    #[test]
    fn never_panics(bytes in any::<Vec<u8>>(), text in "[\\[\\]{},:\"a-z0-9\n ]{0,60}") {
        for body in [&bytes[..], text.as_bytes()] {
            for declared in [None, Some(BatchFormat::Lines), Some(BatchFormat::Array)] {
                if let Ok(parser) = BatchParser::new(declared, body, MAX_OPERATIONS, NOW) {
                    let _ = parser.finish();
                }
            }
        }
    }
}
