//! Everything on `/buckets`: creates, lists, modifies and deletes buckets.
//!
//! These requests are rare, so they are plain axum handlers: extractors authenticate the client
//! ([`extract`]), parameters come in any of several formats ([`params`], [`forms`]), and each
//! handler is one call to the service's `Directory`.

mod creation_limiter;
mod extract;
mod forms;
mod handlers;
mod params;

use std::sync::Arc;

use cloudkv_common::network::Network;

pub(crate) use self::creation_limiter::CreationSettings;
pub(crate) use self::creation_limiter::{CreationLimitExceeded, CreationLimiter, RequestSource};
pub(crate) use self::handlers::{create, delete, list, modify};
use crate::api::http::receive::BodyReader;
use crate::service::Directory;

/// State of the handlers of buckets.
#[derive(Clone)]
pub(crate) struct BucketsState {
    pub(crate) directory: Directory,
    pub(crate) body_reader: Arc<BodyReader>,
    pub(crate) creation_limiter: Arc<CreationLimiter>,
    /// Proxies that are trusted to name the client of a request.
    pub(crate) trusted_proxies: Arc<[Network]>,
}
