//! Tests of the routes of a recovery by force, over real connections.

use super::errors::RecoveryError;
use super::recovery_report::{RecoveryReport, RecoveryScope};
use super::tests::serve_port;

/// Report of a node n1 that can recover the metadata, and no shard.
pub(super) fn fake_report(scope: RecoveryScope) -> RecoveryReport {
    let is_refused = scope == RecoveryScope::Shards;
    RecoveryReport {
        scope,
        node: "n1".to_owned(),
        region: "local".to_owned(),
        rejoins: false,
        groups: Vec::new(),
        lost: vec!["n2".to_owned(), "n3".to_owned()],
        unreachable: Vec::new(),
        losses: Vec::new(),
        next: Vec::new(),
        refusal: is_refused.then(|| "the metadata has no leader".to_owned()),
        confirmation: if is_refused {
            String::new()
        } else {
            "recover the metadata without n2, n3".to_owned()
        },
    }
}

/// Result of a confirmation at that node.
pub(super) fn fake_recovery(
    scope: RecoveryScope,
    confirmation: &str,
) -> Result<RecoveryReport, RecoveryError> {
    let report = fake_report(scope);
    if let Some(refusal) = report.refusal {
        return Err(RecoveryError::NotRecoverable(refusal));
    }
    if confirmation != report.confirmation {
        let expected = report.confirmation;
        return Err(RecoveryError::WrongConfirmation { expected });
    }
    Ok(report)
}

#[tokio::test]
async fn a_recovery_is_reported_and_refusals_give_reasons() {
    let port = serve_port(None).await;
    for (path, status, part) in [
        ("/recovery/metadata", 200, r#""scope":"metadata""#),
        (
            "/recovery/metadata",
            200,
            r#""confirmation":"recover the metadata without n2, n3""#,
        ),
        (
            "/recovery/shards",
            200,
            r#""refusal":"the metadata has no leader""#,
        ),
        ("/recovery/moon", 404, "/recovery/shards"),
    ] {
        let response = port.send(&format!("GET {path}"), "", "").await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {response}"
        );
        assert!(response.contains(part), "{path}: {response}");
    }
}

#[tokio::test]
async fn a_recovery_is_confirmed_word_by_word() {
    let port = serve_port(None).await;
    let right = r#"{"confirm":"recover the metadata without n2, n3"}"#;
    for (path, body, status, part) in [
        ("/recovery/metadata", right, 202, r#""lost":["n2","n3"]"#),
        (
            "/recovery/metadata",
            r#"{"confirm":"yes"}"#,
            400,
            "recover the metadata without n2, n3",
        ),
        (
            "/recovery/metadata",
            r#"{"confirm":"yes"}"#,
            400,
            "wrong_confirmation",
        ),
        ("/recovery/metadata", "{}", 400, "invalid_body"),
        ("/recovery/shards", right, 409, "not_recoverable"),
        ("/recovery/moon", right, 404, "no_such_route"),
    ] {
        let response = port.send(&format!("POST {path}"), "", body).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {response}"
        );
        assert!(response.contains(part), "{path}: {response}");
    }
}
