//! Authentication on the admin port, by a token. Without one the port is on the loopback interface,
//! and then a request must also address it by name: a page in a browser of the machine can make a
//! name of its own resolve to it (DNS rebinding), but can't make the browser send `Host:
//! localhost`.
//!
//! A page can make the browser send a request to `localhost` without reading the response, and that
//! is enough to start an operation. Browsers send the origin of such a request in `Origin`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::errors::error_response;
use crate::config::Secret;

/// Authentication of requests. It keeps the token's hash: the time to compare hashes reveals
/// nothing about the token.
#[derive(Clone)]
pub struct AdminAuth(Option<[u8; 32]>);

impl AdminAuth {
    /// Creates the authentication. Without a token, requests that address the loopback interface by
    /// name are admitted.
    pub fn new(token: Option<&Secret>) -> Self {
        Self(token.map(|token| hash(token.expose().as_bytes())))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = self.0 else {
            return is_loopback_host(headers);
        };
        bearer_token(headers).is_some_and(|token| hash(token) == expected)
    }
}

/// Passes a request on, or answers 401, or 403 where a token wouldn't help.
pub async fn authenticate(
    State(guard): State<AdminAuth>,
    request: Request,
    next: Next,
) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD)
        && is_cross_origin(request.headers())
    {
        let message = "this changes something and comes from a web page of another origin: send \
                       it without the header origin, or from a page of this port";
        return error_response(StatusCode::FORBIDDEN, "forbidden", message);
    }
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    if guard.0.is_none() {
        let message = "without an admin token, the host must be localhost, 127.0.0.1 or [::1]";
        return error_response(StatusCode::FORBIDDEN, "forbidden", message);
    }
    let message = match bearer_token(request.headers()) {
        Some(_) => "this is not the operator's token (`admin_token`)",
        None => "send the operator's token as Authorization: Bearer TOKEN",
    };
    let mut response = error_response(StatusCode::UNAUTHORIZED, "unauthorized", message);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Returns whether a browser sent the request from another origin than this port.
fn is_cross_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return false;
    };
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let scheme_and_host = origin.to_str().ok().and_then(|text| text.split_once("://"));
    let is_own = scheme_and_host.is_some_and(|(scheme, authority)| {
        matches!(scheme, "http" | "https")
            && authority.as_bytes().eq_ignore_ascii_case(host.as_bytes())
    });
    !is_own || origins.next().is_some()
}

fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Returns whether `Host` is a name of the loopback interface, or missing, which no browser omits.
fn is_loopback_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse().ok()) else {
        return false;
    };
    let authority: axum::http::uri::Authority = host;
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_admitted(token: Option<&str>, name: &'static str, value: &'static str) -> bool {
        let token = token.map(|token| Secret::new(token.to_owned()));
        let mut headers = HeaderMap::new();
        headers.insert(
            header::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        AdminAuth::new(token.as_ref()).admits(&headers)
    }

    #[test]
    fn without_a_token_only_loopback_hosts_are_admitted() {
        for host in [
            "localhost:9090",
            "LOCALHOST",
            "127.0.0.1:9090",
            "127.3.2.1",
            "[::1]:9090",
        ] {
            assert!(is_admitted(None, "host", host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "10.0.0.1",
            "@",
        ] {
            assert!(!is_admitted(None, "host", host), "{host}");
        }
        assert!(AdminAuth::new(None).admits(&HeaderMap::new()));
    }

    #[test]
    fn only_pages_of_the_port_itself_are_of_its_origin() {
        let is_foreign = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:9090"));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            is_cross_origin(&headers)
        };
        for origin in ["http://localhost:9090", "https://LOCALHOST:9090"] {
            assert!(!is_foreign(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://localhost",
            "http://localhost:9091",
            "http://127.0.0.1:9090",
            "http://evil.example",
            "file://localhost:9090",
        ] {
            assert!(is_foreign(origin), "{origin}");
        }
        assert!(!is_cross_origin(&HeaderMap::new()));
        let mut without_host = HeaderMap::new();
        without_host.insert(header::ORIGIN, HeaderValue::from_static("null"));
        assert!(is_cross_origin(&without_host));
    }

    #[test]
    fn with_a_token_only_the_token_is_admitted() {
        let token = Some("0123456789abcdef");
        assert!(is_admitted(
            token,
            "authorization",
            "Bearer 0123456789abcdef"
        ));
        assert!(!is_admitted(
            token,
            "authorization",
            "Bearer 0123456789abcdeg"
        ));
        assert!(!is_admitted(token, "host", "localhost"));
    }
}
