//! Requests of users that a router forwarded over its stream of calls: the same API, without HTTP's
//! framing.

use bytes::Bytes;
use cloudkv_common::server::{Authoritative, RequestOrigin};
use cloudkv_common::transport::headers::{read_headers, write_headers};
use cloudkv_proto::v1 as pb;
use http::{HeaderName, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};

use crate::api::Api;
use crate::api::errors::ApiError;
use crate::api::http::body::Body;

impl Api {
    /// Handles a forwarded request; `number` is unique among those of a router's stream.
    pub(crate) fn handle_user_request(
        &self,
        request: pb::UserRequest,
        number: u64,
    ) -> impl Future<Output = pb::UserReply> + Send {
        let origin = RequestOrigin {
            // Counters are spread over connections.
            connection: u32::try_from(number % 16).unwrap_or(0),
            request: u32::try_from(number & 0xffff_ffff).unwrap_or(0),
            peer: ([0, 0, 0, 0], 0).into(),
            is_encrypted: false,
            is_router: true,
        };
        let request = decode_request(request);
        async move {
            let response = match request {
                // The router has checked the head that it received.
                Some(request) => self.handle_request(request, origin, Ok(())).await,
                None => ApiError::invalid_header("the router's request can't be read")
                    .into_http_response(),
            };
            let (parts, body) = response.into_parts();
            let (status, body) = match body {
                Body::Empty => (parts.status, Bytes::new()),
                Body::Full(bytes) => (parts.status, bytes),
                // It isn't a stream: those aren't made for such a request.
                Body::Axum(body) => match Box::pin(body.collect()).await {
                    Ok(collected) => (parts.status, collected.to_bytes()),
                    Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()),
                },
            };
            let skip = |name: &HeaderName| *name == header::CONNECTION;
            pb::UserReply {
                status: u32::from(status.as_u16()),
                headers: write_headers(&parts.headers, skip),
                body,
                authoritative: parts.extensions.get::<Authoritative>().is_some(),
            }
        }
    }
}

pub(super) fn decode_request(request: pb::UserRequest) -> Option<Request<Full<Bytes>>> {
    let mut decoded = Request::new(Full::new(request.body));
    *decoded.method_mut() = Method::from_bytes(request.method.as_bytes()).ok()?;
    *decoded.uri_mut() = Uri::from_maybe_shared(Bytes::from(request.target)).ok()?;
    *decoded.headers_mut() = read_headers(&request.headers, 16).ok()?;
    Some(decoded)
}
