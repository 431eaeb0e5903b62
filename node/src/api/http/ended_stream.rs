//! Event streams that end at once: what clients of event streams get instead of 503, after which
//! they would never connect again.

use std::time::Duration;

use cloudkv_common::event_stream;
use http::Response;

use crate::api::errors::ApiError;
use crate::api::http::body::Body;

/// Time after which a client connects again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Builds the response that tells a temporary error to a client that asked for an event stream.
pub(crate) fn ended_stream(error: ApiError) -> Response<Body> {
    let (_, _, message) = error.into_parts();
    let mut response = Response::new(Body::full(event_stream::end(&message, RETRY_DELAY)));
    event_stream::add_headers(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_with_the_reason_of_the_error() {
        let response = ended_stream(ApiError::unavailable());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.starts_with(": this can't be served"), "{text}");
        assert!(text.ends_with("try again\nretry: 2000\n"), "{text}");
    }
}
