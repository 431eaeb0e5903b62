//! The router's own error responses, in the form of the API's.
//!
//! A client of an event stream never comes back after any other status than 200. So it gets what is
//! only temporary as a stream that ends at once, with the time after which to connect again.

use std::borrow::Cow;
use std::time::Duration;

use cloudkv_common::server::HeadError;
use cloudkv_common::{cors, event_stream};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::event_streams::StreamRefused;
use super::relay::ResponseBody;

static X_CLOUDKV_REGION: HeaderName = HeaderName::from_static("x-cloudkv-region");

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Time after which clients of event streams connect again.
const EVENT_STREAM_RETRY: Duration = Duration::from_secs(2);

/// Error response of the router.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    message: &'a str,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// Stable error code.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// 503: no topology is known yet.
    pub(super) fn no_topology() -> Self {
        let message = "the router has not found any node yet: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 503: the request was not executed.
    pub(super) fn unavailable(region: &str) -> Self {
        let message =
            format!("region {region} can't serve this right now and nothing was done: try again");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 503: the nodes said so.
    pub(super) fn unavailable_node() -> Self {
        let message = "no node can serve this right now: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 503: the requests in progress, or the unread responses, of this client or of all are at
    /// their limit.
    pub(super) fn overloaded() -> Self {
        let message = "too many requests, or too large ones, are under way and nothing was done: \
                       try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 503: as many event streams as there may be are relayed.
    pub(super) fn too_many_event_streams() -> Self {
        let message = "this router has as many event streams as it may have: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 503: the router stops, and begins nothing that lasts.
    pub(super) fn stopping() -> Self {
        let message = "this router is stopping: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// 504: the request may have been executed.
    pub(super) fn unknown_outcome() -> Self {
        let message =
            "it is unknown whether this took effect, or still will: read before you retry";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown_outcome", message)
    }

    /// 404: the region doesn't exist.
    pub(super) fn unknown_region(known: &str) -> Self {
        let message = format!("there is no such region: there are {known}");
        Self::new(StatusCode::NOT_FOUND, "unknown_region", message)
    }

    /// 400 or 431: the head is ambiguous or too long.
    pub(super) fn invalid_head(error: HeadError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
    }

    /// 400: the client aborted the body.
    pub(super) fn aborted_body() -> Self {
        let message = "the request's body broke off";
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// 405: the router is no forward proxy.
    pub(super) fn connect_not_supported() -> Self {
        let message = "CONNECT is not served here";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    }

    /// Builds the response, in the name of a region, to a client of an event stream.
    pub(super) fn into_event_stream_response(self, region: HeaderValue) -> Response<ResponseBody> {
        let is_temporary = matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        if !is_temporary {
            return self.into_response(region, false);
        }
        let end = event_stream::end(&self.message, EVENT_STREAM_RETRY);
        let mut response = Response::new(ResponseBody::Buffered(end));
        let headers = response.headers_mut();
        event_stream::add_headers(headers);
        headers.insert(&X_CLOUDKV_REGION, region);
        cors::allow_all_origins(headers);
        response
    }

    /// Builds the response, in the name of a region.
    pub(super) fn into_response(
        self,
        region: HeaderValue,
        is_bodiless: bool,
    ) -> Response<ResponseBody> {
        let error = ErrorBody {
            error: self.code,
            message: &self.message,
        };
        let json = serde_json::to_vec(&error).unwrap_or_default();
        let length = HeaderValue::from(json.len());
        let body = if is_bodiless {
            ResponseBody::Empty
        } else {
            ResponseBody::Buffered(json.into())
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(&X_CLOUDKV_REGION, region);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let methods = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS";
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        cors::allow_all_origins(headers);
        response
    }
}

impl From<StreamRefused> for Refusal {
    fn from(refused: StreamRefused) -> Self {
        match refused {
            StreamRefused::Stopping => Self::stopping(),
            StreamRefused::TooMany => Self::too_many_event_streams(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_form_of_the_apis_errors() {
        let region = || HeaderValue::from_static("eu");
        let response = Refusal::unavailable("eu").into_response(region(), false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-cloudkv-region"], "eu");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let ResponseBody::Buffered(json) = response.body() else {
            panic!("{response:?}")
        };
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["error"], "unavailable");
        assert!(json["message"].as_str().unwrap().contains("region eu"));
        let head = Refusal::unknown_outcome().into_response(region(), true);
        assert!(matches!(head.body(), ResponseBody::Empty));
        assert_eq!(head.status(), 504);
        assert!(head.headers()["content-length"].len() > 1);
    }

    #[test]
    fn clients_of_event_streams_are_told_to_come_back() {
        for refusal in [
            Refusal::no_topology(),
            Refusal::unavailable("eu"),
            Refusal::unavailable_node(),
            Refusal::overloaded(),
            Refusal::too_many_event_streams(),
            Refusal::stopping(),
            Refusal::unknown_outcome(),
        ] {
            let reason = refusal.message.clone();
            let region = HeaderValue::from_static("eu");
            let response = refusal.into_event_stream_response(region);
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            let ResponseBody::Buffered(block) = response.body() else {
                panic!("{response:?}")
            };
            assert_eq!(*block, format!(": {reason}\nretry: 2000\n"));
        }
    }

    #[test]
    fn what_is_not_temporary_is_an_error_for_clients_of_event_streams_too() {
        for (refusal, status) in [
            (Refusal::unknown_region("eu"), 404),
            (Refusal::aborted_body(), 400),
            (Refusal::invalid_head(HeadError::DuplicateHost), 400),
        ] {
            let region = HeaderValue::from_static("eu");
            let response = refusal.into_event_stream_response(region);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["content-type"], JSON);
        }
    }
}
