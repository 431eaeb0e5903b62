//! Responses to clients for each failure.

use cloudkv_common::server::HeadError;
use http_body_util::BodyExt;

use super::*;
use crate::service::{Access, DirectoryError, KeyError, Plan, Unavailable};

fn status_and_code(error: impl Into<ApiError>) -> (u16, &'static str) {
    let error = error.into();
    (error.status().as_u16(), error.code())
}

async fn body_of(error: ApiError) -> serde_json::Value {
    let body = error
        .into_http_response()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn io_error() -> std::io::Error {
    std::io::Error::other("disk on fire")
}

#[test]
fn key_errors_have_their_codes() {
    assert_eq!(
        status_and_code(KeyError::UnknownOutcome),
        (504, "unknown_outcome")
    );
    assert_eq!(
        status_and_code(KeyError::PreconditionFailed),
        (412, "precondition_failed")
    );
    assert_eq!(
        status_and_code(KeyError::TooManyKeys { limit: 9 }),
        (403, "plan_limit")
    );
    assert_eq!(
        status_and_code(KeyError::BucketDeleted),
        (404, "unknown_bucket")
    );
    let full = |elsewhere| {
        let shortage = DiskShortage {
            elsewhere,
            refuses_all: false,
        };
        status_and_code(KeyError::DiskFull(shortage))
    };
    assert_eq!(
        (full(true), full(false)),
        ((503, "disk_full"), (507, "disk_full"))
    );
    assert_eq!(
        status_and_code(KeyError::Storage(io_error())),
        (500, "internal")
    );
    assert_eq!(
        status_and_code(KeyError::Damaged(io_error())),
        (500, "damaged")
    );
    assert_eq!(
        status_and_code(KeyError::from(Unavailable::Stopping)),
        (503, "unavailable")
    );
}

#[test]
fn directory_errors_have_their_codes() {
    let (plan, access) = (Plan::Free, Access::Protected);
    for (error, expected) in [
        (DirectoryError::UnknownOutcome, (504, "unknown_outcome")),
        (DirectoryError::UnknownBucket, (404, "unknown_bucket")),
        (DirectoryError::UnknownAccount, (401, "unauthorized")),
        (DirectoryError::NotOwner, (403, "forbidden")),
        (
            DirectoryError::AccessNotInPlan { plan, access },
            (403, "plan_limit"),
        ),
        (
            DirectoryError::TooManyBuckets { plan, limit: 10 },
            (403, "plan_limit"),
        ),
        (
            DirectoryError::ClusterFull { what: "buckets" },
            (503, "cluster_full"),
        ),
        (
            DirectoryError::PlanNotSelfService { plan },
            (402, "plan_not_self_service"),
        ),
        (
            DirectoryError::ExceedsPlan {
                plan,
                what: "keys".into(),
            },
            (409, "exceeds_plan"),
        ),
        (
            DirectoryError::ConfirmMismatch { keys: 3 },
            (409, "confirm_mismatch"),
        ),
        (DirectoryError::Storage(io_error()), (500, "internal")),
    ] {
        assert_eq!(status_and_code(error), expected);
    }
}

#[test]
fn errors_of_heads_have_the_codes_that_routers_answer() {
    for error in [
        HeadError::MissingHost,
        HeadError::DuplicateHost,
        HeadError::TransferEncoding,
        HeadError::Connection,
        HeadError::TooManyHeaders,
    ] {
        let expected = (error.status().as_u16(), error.code());
        assert_eq!(status_and_code(error), expected);
    }
}

#[tokio::test]
async fn bodies_are_json_with_code_and_message() {
    let body = body_of(DirectoryError::ConfirmMismatch { keys: 3 }.into()).await;
    assert_eq!(body["error"], "confirm_mismatch");
    assert_eq!(body["keys"], 3);
    let body = body_of(ApiError::no_such_key()).await;
    assert!(body.get("keys").is_none());
}

#[tokio::test]
async fn a_full_disk_is_answered_with_what_still_works() {
    const DELETING: &str = "reading and deleting work";
    const OPERATORS: &str = "before the operators have freed disk space";
    for (elsewhere, refuses_all) in [(true, false), (false, false), (true, true), (false, true)] {
        let shortage = DiskShortage {
            elsewhere,
            refuses_all,
        };
        let errors: [ApiError; 2] = [
            KeyError::DiskFull(shortage).into(),
            DirectoryError::DiskFull(shortage).into(),
        ];
        for (error, is_about_key) in errors.into_iter().zip([true, false]) {
            let body = body_of(error).await;
            let message = body["message"].as_str().unwrap();
            assert_eq!(message.contains("try again"), elsewhere, "{message}");
            let needs_operators = refuses_all && !elsewhere;
            assert_eq!(message.contains(OPERATORS), needs_operators, "{message}");
            let can_delete = is_about_key && !refuses_all;
            assert_eq!(message.contains(DELETING), can_delete, "{message}");
        }
    }
}

#[tokio::test]
async fn causes_are_not_disclosed() {
    let body = body_of(KeyError::Storage(io_error()).into()).await;
    assert!(!body["message"].as_str().unwrap().contains("fire"));
}

#[test]
fn errors_of_resume_tokens_say_what_is_wrong_with_them() {
    for (error, expected) in [
        (ResumeTokenError::Malformed, "that this service has issued"),
        (
            ResumeTokenError::OtherBucket,
            "is a token of another bucket",
        ),
    ] {
        assert_eq!(status_and_code(error), (400, "invalid_resume_token"));
        let message = ApiError::from(error).into_message();
        assert!(message.ends_with(expected), "{message}");
    }
}

#[test]
fn temporary_errors_are_those_that_a_retry_may_mend() {
    for error in [
        ApiError::unavailable(),
        ApiError::starting(),
        ApiError::overloaded(),
        ApiError::upgrading(),
        ApiError::too_many_exports(),
        ApiError::too_many_imports(),
    ] {
        assert!(error.is_temporary(), "{error:?}");
    }
    for error in [
        ApiError::unknown_bucket(),
        ApiError::forbidden(),
        ApiError::unauthorized(),
        ResumeTokenError::Malformed.into(),
    ] {
        assert!(!error.is_temporary(), "{error:?}");
    }
}

#[test]
fn responses_have_the_headers_of_their_status() {
    let response = ApiError::unavailable().into_http_response();
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/json; charset=utf-8"
    );
    // A retry doesn't help until the operator raises the limit.
    let response =
        ApiError::from(DirectoryError::ClusterFull { what: "buckets" }).into_http_response();
    assert!(!response.headers().contains_key(header::RETRY_AFTER));
    let response = ApiError::method_not_allowed("GET, OPTIONS").into_http_response();
    assert_eq!(response.headers()[header::ALLOW], "GET, OPTIONS");
}
