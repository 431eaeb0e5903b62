//! Check of refusals, for all fuzz targets.

use http_body::Body as _;

use crate::api::errors::ApiError;

/// Maximum size of the body of a refusal, in bytes.
const MAX_BODY_BYTES: u64 = 4096;

/// Checks that a refusal is the client's error, and that it doesn't repeat a long request.
pub(crate) fn check_refusal(error: ApiError) {
    let response = error.into_http_response();
    let status = response.status();
    assert!(status.is_client_error(), "refused with {status}");
    let bytes = response.body().size_hint().lower();
    assert!(bytes <= MAX_BODY_BYTES, "refused in {bytes} bytes");
}
