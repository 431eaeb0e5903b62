//! The operator's token.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::routes::refusal;
use crate::config::Secret;

/// Whom to let in. It keeps the token's hash: comparing hashes takes a time that tells nothing
/// about the token.
#[derive(Clone)]
pub(super) struct Guard(Option<[u8; 32]>);

impl Guard {
    /// Without a token everyone gets in.
    pub fn new(token: Option<&Secret>) -> Self {
        Self(token.map(|token| hash(token.expose().as_bytes())))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(right) = self.0 else { return true };
        bearer(headers).is_some_and(|token| hash(token) == right)
    }
}

/// Lets a request pass, or answers 401.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    let mut response = refusal(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send the operator's token as Authorization: Bearer TOKEN",
    );
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
