//! Stable codes of errors: the one list of them, with the status of each.
//!
//! Every error response is made of one of these, and the OpenAPI document describes all of them:
//! so a code that isn't documented can't be sent.

use http::StatusCode;

/// Declares [`ErrorCode`] from rows of a name, a status, the text in responses, and advice for the
/// client.
macro_rules! error_codes {
    ($($name:ident $status:ident $text:literal $advice:literal;)+) => {
        /// Stable code of an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ErrorCode {
            $(
                #[doc = $advice]
                $name,
            )+
        }

        impl ErrorCode {
            /// All codes, in the order of their statuses.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the status of the response.
            pub(crate) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)+
                }
            }

            /// Returns the text in responses.
            pub(crate) const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Returns what the client should do.
            pub(crate) const fn advice(self) -> &'static str {
                match self {
                    $(Self::$name => $advice,)+
                }
            }
        }
    };
}

error_codes! {
    InvalidPath BAD_REQUEST "invalid_path"
        "Encode the path: UTF-8, percent-encoded.";
    InvalidKey BAD_REQUEST "invalid_key"
        "Use a key without control characters, and no longer than the bucket's plan allows.";
    InvalidTtl BAD_REQUEST "invalid_ttl"
        "Name one time to live, as in `90`, `5s` or `1h30m`, or one time, or none.";
    InvalidParameter BAD_REQUEST "invalid_parameter"
        "Correct the parameter that the message names.";
    InvalidHeader BAD_REQUEST "invalid_header"
        "Correct the header that the message names.";
    InvalidBody BAD_REQUEST "invalid_body"
        "Send a body of a form that the call takes, complete.";
    InvalidAccess BAD_REQUEST "invalid_access"
        "Use `public`, `public-read` or `protected`, at creation only.";
    InvalidPlan BAD_REQUEST "invalid_plan"
        "Use `free`, `pro` or `business`.";
    InvalidCursor BAD_REQUEST "invalid_cursor"
        "Use the cursor with the query that it came from, or begin anew.";
    InvalidResumeToken BAD_REQUEST "invalid_resume_token"
        "Use the ID of an event of this bucket, or `since` of an export of it, or none.";
    InvalidBatch BAD_REQUEST "invalid_batch"
        "Correct the operation that the message names. Nothing was done.";
    ConfirmRequired BAD_REQUEST "confirm_required"
        "Pass `confirm` with the number of keys.";
    Unauthorized UNAUTHORIZED "unauthorized"
        "Send the account's key as `api-key`.";
    PlanNotSelfService PAYMENT_REQUIRED "plan_not_self_service"
        "Ask the operator for the plan.";
    Forbidden FORBIDDEN "forbidden"
        "The bucket is another account's: use that account's key.";
    PlanLimit FORBIDDEN "plan_limit"
        "The plan is full or doesn't offer this: see the message.";
    NotFound NOT_FOUND "not_found"
        "No such key, or no key matches.";
    UnknownBucket NOT_FOUND "unknown_bucket"
        "No such bucket, or it was deleted.";
    NoSuchRoute NOT_FOUND "no_such_route"
        "Correct the path.";
    UnknownRegion NOT_FOUND "unknown_region"
        "From a router: no such region. The message names the regions.";
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed"
        "Use a method that `Allow` names.";
    RequestTimeout REQUEST_TIMEOUT "request_timeout"
        "The body stopped arriving: send again. Nothing was written.";
    ConfirmMismatch CONFLICT "confirm_mismatch"
        "`keys` is the right number: pass it if you mean it.";
    ExceedsPlan CONFLICT "exceeds_plan"
        "The message says which limit the bucket exceeds.";
    PreconditionFailed PRECONDITION_FAILED "precondition_failed"
        "Another client was faster: read, and decide anew.";
    ValueTooLarge PAYLOAD_TOO_LARGE "value_too_large"
        "Send less. The message names the limit.";
    BodyTooLarge PAYLOAD_TOO_LARGE "body_too_large"
        "Send less. The message names the limit.";
    BatchTooLarge PAYLOAD_TOO_LARGE "batch_too_large"
        "Split the batch. The message names the limit.";
    ResponseTooLarge PAYLOAD_TOO_LARGE "response_too_large"
        "Get the key in another batch: the answer of this one is full.";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type"
        "Send a batch as `application/x-ndjson` or `application/json`.";
    TooManyRequests TOO_MANY_REQUESTS "too_many_requests"
        "Too many buckets from your address: see `Retry-After`.";
    TooManyHeaders REQUEST_HEADER_FIELDS_TOO_LARGE "too_many_headers"
        "Send fewer headers. The message names the limit.";
    Damaged INTERNAL_SERVER_ERROR "damaged"
        "The data is damaged on disk, with no other copy: don't retry.";
    Internal INTERNAL_SERVER_ERROR "internal"
        "The operator finds the cause in the log.";
    Unavailable SERVICE_UNAVAILABLE "unavailable"
        "Retry after `Retry-After`. Nothing was done.";
    Starting SERVICE_UNAVAILABLE "starting"
        "Retry after `Retry-After`, or ask another node. Nothing was done.";
    Behind SERVICE_UNAVAILABLE "behind"
        "The region lacks what the session token has seen: retry.";
    Upgrading SERVICE_UNAVAILABLE "upgrading"
        "Retry when all nodes of the cluster have been upgraded. Nothing was done.";
    DiskFull SERVICE_UNAVAILABLE "disk_full"
        "Retry after `Retry-After`: a node with space may take over.";
    ClusterFull SERVICE_UNAVAILABLE "cluster_full"
        "The operator has to raise `max_accounts` or `max_buckets`.";
    UnknownOutcome GATEWAY_TIMEOUT "unknown_outcome"
        "Read before you retry: the write may have happened, or still happen.";
    AllDisksFull INSUFFICIENT_STORAGE "disk_full"
        "Too few nodes have space: delete keys, or ask the operator.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_one_thing_per_status() {
        for (at, code) in ErrorCode::ALL.iter().enumerate() {
            let same =
                |other: &&ErrorCode| (other.text(), other.status()) == (code.text(), code.status());
            assert_eq!(
                ErrorCode::ALL.iter().position(|other| same(&other)),
                Some(at)
            );
            let statuses = ErrorCode::ALL[..at].iter().map(|before| before.status());
            assert!(statuses.max().is_none_or(|before| before <= code.status()));
        }
    }
}
