//! Everything on `/buckets`: creating, listing, changing and deleting buckets.
//!
//! These are rare requests, so they are plain axum handlers: extractors prove who asks
//! ([`extract`]), parameters come from whichever form the client chose ([`params`], [`forms`]),
//! and each handler is one call to the service's `Directory`.

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

/// What the handlers of buckets need.
#[derive(Clone)]
pub(crate) struct Management {
    pub(crate) directory: Directory,
    pub(crate) intake: Arc<Intake>,
    pub(crate) creations: Arc<Creations>,
    /// Proxies that are believed for whom they ask.
    pub(crate) trusted: Arc<[Network]>,
}
