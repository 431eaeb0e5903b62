//! Batches of good and bad lines.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream::{StreamExt, iter, pending};

use super::*;
use crate::api::http::receive::StreamBounds;

const RULES: LineRules = LineRules {
    key_bytes: 8,
    value_bytes: 16,
    default_expiry: Expiry::Never,
    mode: ImportMode::Overwrite,
    now: 1_000_000_000,
};

const BOUNDS: StreamBounds = StreamBounds {
    chunk_timeout: Duration::from_secs(60),
    min_rate: 0,
};

fn reader(body: impl Into<Body>) -> BatchReader {
    BatchReader::new(BodyLines::new(body.into(), BOUNDS))
}

fn put(key: &str) -> String {
    format!("{{\"key\":\"{key}\",\"value\":\"v\"}}\n")
}

fn keys(batch: &Batch) -> Vec<&str> {
    let keys = batch.writes.iter();
    keys.map(|put| std::str::from_utf8(&put.key).unwrap())
        .collect()
}

fn is_whole(batch: &Batch) -> bool {
    matches!(batch.end, Some(BodyEnd::Complete))
}

#[tokio::test]
async fn bad_lines_fail_by_themselves() {
    let body = [
        put("a"),
        "\n{}\n".to_owned(),
        put("too long a key"),
        "{\"key\":\"b\",\"value\":\"more than 16 bytes\"}\n".to_owned(),
        "{\"key\":\"c\",\"value\":\"v\",\"expires_at\":1}\n".to_owned(),
        put("d"),
        "{\"end\":true,\"keys\":2,\"bytes\":7}\n".to_owned(),
        put("e"),
    ];
    let batch = reader(body.concat()).next(&RULES).await;
    assert_eq!(keys(&batch), ["a", "d", "e"]);
    let numbers: Vec<u64> = batch.writes.iter().map(|put| put.number).collect();
    assert_eq!(numbers, [1, 7, 9]);
    let failures = batch.failures.iter();
    let failures: Vec<_> = failures
        .map(|failure| (failure.number, failure.code, failure.key.is_some()))
        .collect();
    let expected = [
        (3, "invalid_batch", false),
        // It may be as long as a line, and isn't kept.
        (4, "invalid_key", false),
        (5, "value_too_large", true),
    ];
    assert_eq!(failures, expected);
    assert_eq!((batch.skipped, batch.last_line), (1, 9));
    assert!(is_whole(&batch));
}

#[tokio::test]
async fn failures_of_huge_keys_take_no_memory() {
    let line = put(&"k".repeat(1 << 20));
    let batch = reader(line.repeat(20)).next(&RULES).await;
    assert_eq!(batch.failures.len(), 20);
    for failure in &batch.failures {
        assert_eq!(failure.key, None);
        assert!(failure.message.len() < 1000);
    }
}

#[tokio::test]
async fn a_key_is_in_a_batch_once() {
    let body = ["a", "b", "a", "a", "b"].map(put).concat();
    let mut reader = reader(body);
    for (expected, last_line) in [(&["a", "b"][..], 2), (&["a"][..], 3), (&["a", "b"][..], 5)] {
        let batch = reader.next(&RULES).await;
        assert_eq!(keys(&batch), expected);
        assert_eq!(batch.last_line, last_line);
        assert_eq!(is_whole(&batch), last_line == 5);
    }
}

#[tokio::test]
async fn batches_are_bounded_in_lines_and_bytes() {
    let good: String = (0..MAX_BATCH_LINES)
        .map(|number| put(&number.to_string()))
        .collect();
    let bad = "x\n".repeat(MAX_BATCH_LINES);
    let mut lines = reader(good + &bad + "\n");
    let batch = lines.next(&RULES).await;
    assert_eq!(batch.writes.len(), MAX_BATCH_LINES);
    let batch = lines.next(&RULES).await;
    assert_eq!(batch.failures.len(), MAX_BATCH_LINES);
    assert!(batch.writes.is_empty() && batch.end.is_none());
    let batch = lines.next(&RULES).await;
    assert_eq!(batch.last_line, 2 * MAX_BATCH_LINES as u64 + 1);
    assert!(is_whole(&batch));
    let rules = LineRules {
        value_bytes: MAX_BATCH_BYTES,
        ..RULES
    };
    let large = "v".repeat(MAX_BATCH_BYTES / 2);
    let large = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"{large}\"}}\n");
    let body = ["a", "b", "c"].map(large).concat();
    let mut lines = reader(body);
    assert_eq!(keys(&lines.next(&rules).await), ["a", "b"]);
    assert_eq!(keys(&lines.next(&rules).await), ["c"]);
}

#[tokio::test]
async fn lines_are_not_held_back_for_those_that_have_not_come() {
    let chunks = iter([Ok::<_, Infallible>(Bytes::from(put("a") + "{\"key\""))]);
    let mut reader = reader(Body::from_stream(chunks.chain(pending())));
    let batch = reader.next(&RULES).await;
    assert_eq!(keys(&batch), ["a"]);
    assert!(batch.end.is_none());
}

#[tokio::test]
async fn what_came_before_the_break_is_in_the_batch() {
    let reset = std::io::Error::other("reset");
    let chunks = iter([Ok(Bytes::from(put("a") + "{\"key\"")), Err(reset)]);
    let batch = reader(Body::from_stream(chunks)).next(&RULES).await;
    assert_eq!(keys(&batch), ["a"]);
    assert!(matches!(&batch.end, Some(BodyEnd::Failed(error)) if error.code() == "invalid_body"));
}

#[tokio::test]
async fn newer_needs_a_version() {
    let rules = LineRules {
        mode: ImportMode::Newer,
        ..RULES
    };
    let version = "{\"key\":\"b\",\"value\":\"v\",\"version\":\"0000000000000010-2\"}\n";
    let batch = reader(put("a") + version).next(&rules).await;
    assert_eq!(keys(&batch), ["b"]);
    assert_eq!(batch.failures.len(), 1);
    assert!(batch.failures[0].message.contains("mode=newer"));
}

#[tokio::test]
async fn lines_that_name_no_expiry_have_that_of_the_bucket() {
    let default_expiry = Expiry::After(Duration::from_secs(5));
    let rules = LineRules {
        default_expiry,
        ..RULES
    };
    let never = "{\"key\":\"b\",\"value\":\"v\",\"expires_at\":null}\n";
    let batch = reader(put("a") + never).next(&rules).await;
    let expiry = |line: &WriteLine| match &line.write {
        LineWrite::Put(put) => put.expiry,
        LineWrite::Delete => panic!("{line:?}"),
    };
    let expiries: Vec<Expiry> = batch.writes.iter().map(expiry).collect();
    assert_eq!(expiries, [default_expiry, Expiry::Never]);
}

#[tokio::test]
async fn deletes_need_a_version_and_a_mode_that_compares_it() {
    let versioned = "{\"op\":\"delete\",\"key\":\"b\",\"version\":\"0000000000000010-2\"}\n";
    let body = "{\"op\":\"delete\",\"key\":\"a\"}\n".to_owned() + versioned;
    for (mode, deleted, message) in [
        (ImportMode::Newer, &["b"][..], "mode=newer needs version"),
        (ImportMode::Skip, &[][..], "with mode=newer only"),
        (ImportMode::Overwrite, &[][..], "with mode=newer only"),
    ] {
        let rules = LineRules { mode, ..RULES };
        let batch = reader(body.clone()).next(&rules).await;
        assert_eq!(keys(&batch), deleted, "{mode:?}");
        assert!(batch.writes.iter().all(WriteLine::is_delete));
        assert_eq!(batch.failures.len(), 2 - deleted.len());
        let failure = &batch.failures[0];
        assert_eq!(failure.key.as_deref(), Some(&b"a"[..]));
        assert!(failure.message.contains(message), "{}", failure.message);
        assert!(!failure.is_passing);
    }
}

#[tokio::test]
async fn a_merged_line_that_has_expired_deletes_its_key() {
    let expired = "{\"key\":\"a\",\"value\":\"v\",\"expires_at\":1,\
                   \"version\":\"0000000000000010-2\"}\n";
    for (mode, deletes) in [(ImportMode::Newer, 0), (ImportMode::Merge, 1)] {
        let rules = LineRules { mode, ..RULES };
        let batch = reader(expired).next(&rules).await;
        assert_eq!(batch.writes.len(), deletes);
        assert!(batch.writes.iter().all(WriteLine::is_delete));
        assert_eq!(batch.skipped, 1 - deletes as u64);
    }
}

#[tokio::test]
async fn known_lines_are_skipped() {
    let line = |key: &str, time: u64| {
        format!("{{\"key\":\"{key}\",\"value\":\"v\",\"version\":\"{time:016x}-2\"}}\n")
    };
    let body = line("a", 7) + &line("b", 7) + &line("a", 8) + &put("a");
    let known: KnownLines = Box::new(|key, version| key == b"a" && version.time < 8);
    let lines = BodyLines::new(body.into(), BOUNDS);
    let batch = BatchReader::skipping(lines, known).next(&RULES).await;
    assert_eq!(keys(&batch), ["b", "a"]);
    assert_eq!((batch.skipped, batch.last_line), (1, 3));
}
