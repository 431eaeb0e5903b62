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
mod state;

pub(crate) use self::creation_limiter::CreationSettings;
pub(crate) use self::creation_limiter::{CreationLimitExceeded, CreationLimiter, RequestSource};
pub(crate) use self::handlers::{create, delete, list, modify};
pub(crate) use self::state::BucketsState;
