//! Tests of `admin backup` against a node that tells its progress.

use axum::Router;
use axum::routing::post;
use cloudkv_common::admin::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::tests::serve_port;
use crate::config::{AdminAction, AdminTarget};

const BEGIN: &str = r#"{"id":"20261201T034500Z","resumed":false,"kept_shards":0,"shards":8}"#;
const RESUMED: &str = r#"{"id":"20261201T034500Z","resumed":true,"kept_shards":2,"shards":8}"#;
const END: &str =
    r#"{"end":true,"id":"20261201T034500Z","records":1000,"bytes":2500000,"seconds":2.0}"#;
const FAILED: &str = r#"{"error":"unavailable","message":"read shard-2: it has no leader"}"#;

fn flags(json: bool) -> BackupFlags {
    BackupFlags {
        to: "file:///backups".to_owned(),
        new: false,
        json,
    }
}

async fn back_up(lines: &[&str], json: bool) -> (String, Result<(), String>) {
    back_up_with(lines, flags(json)).await
}

/// Has a node that answers these lines make a backup. Returns what is printed, and the result.
async fn back_up_with(lines: &[&str], flags: BackupFlags) -> (String, Result<(), String>) {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let router = Router::new().route("/backups", post(move || async move { body }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = AdminTarget::from(listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router, stop.clone()));
    let call = AdminCall {
        target,
        token: None,
        action: AdminAction::Backup(flags.clone()),
    };
    let mut output = Vec::new();
    let outcome = run(&call, &flags, &mut output).await;
    stop.cancel();
    server.await.unwrap();
    let outcome = outcome.map_err(|error| error.to_string());
    (String::from_utf8(output).unwrap(), outcome)
}

#[tokio::test]
async fn a_backup_is_told_from_its_begin_to_its_end() {
    let (text, outcome) = back_up(&[BEGIN, END], false).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        text,
        "backup 20261201T034500Z of 8 shards begins\n\
         backup 20261201T034500Z is complete: 1000 records, 2.5 MB in 2.0 s (500 records/s)\n"
    );
    let (text, outcome) = back_up(&[BEGIN, END], true).await;
    assert_eq!((text, outcome), (format!("{BEGIN}\n{END}\n"), Ok(())));
}

/// Most of its records were read by another call.
#[tokio::test]
async fn a_resumed_backup_tells_no_rate_of_its_records() {
    let (text, outcome) = back_up(&[RESUMED, END], false).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        text,
        "backup 20261201T034500Z goes on: it has 2 of 8 shards already\n\
         backup 20261201T034500Z is complete: 1000 records, 2.5 MB in 2.0 s\n"
    );
}

#[tokio::test]
async fn an_interrupted_backup_fails_with_its_reason_and_how_to_go_on() {
    for (lines, reason) in [
        (&[BEGIN, FAILED][..], "read shard-2: it has no leader"),
        (&[FAILED][..], "read shard-2: it has no leader"),
        (&[BEGIN][..], "the node has ended it early"),
        (&[][..], "the node has ended it early"),
    ] {
        let (_, outcome) = back_up(lines, false).await;
        let error = outcome.unwrap_err();
        let right = error.starts_with(&format!("the backup is not complete: {reason}"))
            && error.ends_with("run the same command again: it goes on where it stopped");
        assert!(right, "{lines:?}: {error}");
    }
    let flags = BackupFlags {
        new: true,
        ..flags(false)
    };
    let error = back_up_with(&[BEGIN], flags).await.1.unwrap_err();
    assert!(
        error.ends_with("again without --new: it goes on where it stopped"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_backup_fails_with_the_answer_of_the_node() {
    let port = serve_port(None).await;
    let error = port.call(None, AdminAction::Backup(flags(false))).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("409") && error.contains("making a backup already"),
        "{error}"
    );
}

#[test]
fn progress_is_described_with_its_rates() {
    let printer = Printer::new(false, false);
    let progress = |shard, records| BackupLine::Progress {
        shard,
        shards: 8,
        records,
        bytes: 13_000_000,
        seconds: 12.5,
    };
    assert_eq!(
        printer.describe(&progress(2, 120_000)),
        "shard 3 of 8: 120000 records, 13.0 MB, 9600 records/s, 1.0 MB/s"
    );
    assert_eq!(
        printer.describe(&progress(8, 1)),
        "metadata: 1 record, 13.0 MB, 0 records/s, 1.0 MB/s"
    );
}

#[test]
fn progress_replaces_itself_on_terminals_only() {
    let mut terminal = Printer::new(false, true);
    assert_eq!(terminal.progress("a").as_deref(), Some("\ra\x1b[K"));
    assert_eq!(terminal.progress("b").as_deref(), Some("\rb\x1b[K"));
    assert_eq!(terminal.after_progress("c\n"), "\nc\n");
    assert_eq!(terminal.after_progress(""), "");
    let mut file = Printer::new(false, false);
    assert_eq!(file.progress("a").as_deref(), Some("a\n"));
    assert_eq!(file.progress("b"), None);
    assert_eq!(file.after_progress("c\n"), "c\n");
}
