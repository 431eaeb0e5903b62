//! Everything on `/buckets`: creates, lists, modifies and deletes buckets.
//!
//! These requests are rare, so they are plain axum handlers: extractors authenticate the client
//! ([`extract`]), parameters come in any of several formats ([`params`], [`forms`]), and each
//! handler is one call to the service's `Directory`.

mod creations;
mod extract;
mod forms;
mod handlers;
mod params;

use std::sync::Arc;

use cloudkv_common::network::Network;

pub use self::creations::CreationSettings;
pub(crate) use self::creations::{Creations, NoRoom, Peer};
pub(crate) use self::handlers::{create, delete, list, modify};
use crate::api::http::receive::Intake;
use crate::service::Directory;

/// State of the handlers of buckets.
#[derive(Clone)]
pub(crate) struct Management {
    pub(crate) directory: Directory,
    pub(crate) intake: Arc<Intake>,
    pub(crate) creations: Arc<Creations>,
    /// Proxies that are trusted to name the client of a request.
    pub(crate) trusted: Arc<[Network]>,
}
