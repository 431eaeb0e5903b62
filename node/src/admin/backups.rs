//! Route that makes a backup, and tells its progress while it does.

use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cloudkv_common::admin::error_response;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};

use super::context::AdminContext;
use crate::backup::{BackupRun, BackupStartError};

/// Body of `POST /backups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupBody {
    /// URL of the place.
    pub to: String,
    /// True if it doesn't go on with one that was interrupted.
    #[serde(default)]
    pub new: bool,
}

/// `POST /backups`: the backup ends early if the caller goes away.
pub(super) async fn make(
    State(node): State<AdminContext>,
    body: Result<Json<BackupBody>, JsonRejection>,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => {
            let message = format!(
                "expected JSON as in {{\"to\":\"file:///backups\",\"new\":false}}: {}",
                rejection.body_text()
            );
            return error_response(StatusCode::BAD_REQUEST, "invalid_body", &message);
        }
    };
    match node.operations.start_backup(&body.to, body.new) {
        Ok(run) => {
            let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (content_type, lines_body(run)).into_response()
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &BackupStartError) -> Response {
    let (status, code) = match error {
        BackupStartError::Running => (StatusCode::CONFLICT, "backup_running"),
        BackupStartError::Target(_) => (StatusCode::BAD_REQUEST, "bad_target"),
    };
    error_response(status, code, &error.to_string())
}

fn lines_body(run: BackupRun) -> Body {
    let lines = unfold(run, async |mut run| {
        let line = run.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line.encode())), run))
    });
    Body::from_stream(lines)
}

#[cfg(test)]
mod tests {
    use crate::admin::tests::serve_port;

    #[tokio::test]
    async fn a_backup_that_is_not_begun_gives_its_reason() {
        let port = serve_port(None).await;
        for (body, status, code) in [
            (r#"{"to":"file:///backups"}"#, 409, "backup_running"),
            (
                r#"{"to":"ftp://host/backups","new":true}"#,
                400,
                "bad_target",
            ),
            (
                r#"{"to":"file:///backups","news":true}"#,
                400,
                "invalid_body",
            ),
            (r#"{"new":true}"#, 400, "invalid_body"),
        ] {
            let headers = "content-type: application/json\r\n";
            let response = port.send("POST /backups", headers, body).await;
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status}")),
                "{body}: {response}"
            );
            assert!(response.contains(code), "{body}: {response}");
        }
    }
}
