//! Runs the tour of `docs/api.md` as a reader would: each command must have the answer printed
//! there.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use cloudkv_test_harness::{Node, NodeOptions};

/// Headers of all answers, which the document shows only once.
const OMITTED_HEADERS: [&str; 5] = [
    "x-request-id:",
    "x-cloudkv-region:",
    "access-control-allow-origin:",
    "access-control-expose-headers:",
    "date:",
];
/// Fields whose values are times, or tokens.
const VARYING_FIELDS: [&str; 3] = ["last-modified:", "expires:", "id:"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// Masks the parts of a line that differ between runs: IDs, versions and times.
fn mask_varying(line: &str) -> String {
    let line = line.trim_end();
    if let Some(field) = VARYING_FIELDS.iter().find(|field| line.starts_with(*field)) {
        return (*field).to_owned();
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-:._".contains(c);
    let mut kept = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_part) {
        let (before, word) = rest.split_at(start);
        let (word, after) = word.split_at(word.find(|c| !is_part(c)).unwrap_or(word.len()));
        let varies = word.len() >= 13
            && !word.ends_with(':')
            && word.contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase());
        kept.push_str(before);
        kept.push_str(if varies { "*" } else { word });
        rest = after;
    }
    kept + rest
}

/// Returns the lines of an answer that are compared, masked.
fn comparable<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_shown = |line: &&str| {
        !line.trim().is_empty()
            && !OMITTED_HEADERS
                .iter()
                .any(|header| line.starts_with(header))
    };
    lines.filter(is_shown).map(mask_varying).collect()
}

/// Commands of the document and the answer below them, if there is one.
#[derive(Default)]
struct Block<'a> {
    commands: Vec<&'a str>,
    answer: Vec<&'a str>,
}

fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = vec![];
    let mut fence = None;
    for line in document.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fence = fence.is_none().then_some(language);
            if fence == Some("bash") {
                blocks.push(Block::default());
            }
            continue;
        }
        match (fence, blocks.last_mut()) {
            (Some("bash"), Some(block)) if !line.is_empty() => block.commands.push(line),
            (Some("text"), Some(block)) => block.answer.push(line),
            _ => {}
        }
    }
    blocks
}

/// Returns whether a line of the tour's output is a command.
fn is_command(line: &str) -> bool {
    line.starts_with("$ ") || line.starts_with("> ")
}

#[tokio::test]
async fn the_tour_answers_as_documented() {
    let document = std::fs::read_to_string(repository().join("docs/api.md")).unwrap();
    let blocks = blocks(&document);
    assert!(blocks.len() > 30, "{} blocks", blocks.len());
    let node = Node::start_with(NodeOptions {
        shards: None,
        ..NodeOptions::default()
    })
    .await;
    let output = Command::new(repository().join("scripts/tour"))
        .arg(format!("http://{}", node.http()))
        .output()
        .expect("run the tour");
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{stderr}");

    let mut printed = text.lines().peekable();
    for Block { commands, answer } in blocks {
        let mut printed_answer = vec![];
        for command in &commands {
            // Answers of the previous commands.
            printed_answer.extend(std::iter::from_fn(|| {
                printed.next_if(|line| !is_command(line))
            }));
            let line = printed.next().expect("a command");
            assert!(
                line[2..] == **command || command.starts_with("API="),
                "{line} instead of {command}"
            );
        }
        printed_answer.extend(std::iter::from_fn(|| {
            printed.next_if(|line| !is_command(line))
        }));
        assert_eq!(
            comparable(printed_answer.into_iter()),
            comparable(answer.into_iter()),
            "{commands:#?}"
        );
    }
    assert_eq!(printed.next(), None);
}

#[test]
fn varying_parts_are_masked() {
    for (line, masked) in [
        ("etag: \"18ead8c74e16d6e0-1\"", "etag: \"*\""),
        (
            "{\"id\":\"aArigQkIoMOGqG\",\"n\":5}",
            "{\"id\":\"*\",\"n\":5}",
        ),
        ("\"cursor\":\"AQECAw_Fbg-IAGZydWl0\"", "\"cursor\":\"*\""),
        ("content-length: 112", "content-length: 112"),
        ("expires: Tue, 24 Nov 2026 03:32:31 GMT", "expires:"),
        ("id: AkO5JvI", "id:"),
        ("\"2026-11-24T03:32:31.992752Z\"", "\"*\""),
        ("HTTP/1.1 200 OK\r", "HTTP/1.1 200 OK"),
    ] {
        assert_eq!(mask_varying(line), masked);
    }
}
