//! Settings of the node for streams of changes, and the request for one.

use std::net::IpAddr;
use std::sync::Arc;

use super::token::ResumeToken;
use crate::meta::Bucket;
use crate::types::KeyFilter;

/// Bounds on streams of changes of this node.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// Maximum number of watchers.
    pub max_watchers: usize,
    /// Maximum number of watchers of one bucket.
    pub max_bucket_watchers: usize,
    /// Maximum number of watchers of one client address, or of an IPv6 address's first 64 bits.
    pub max_address_watchers: usize,
    /// Maximum size of a bucket's changes that watchers have yet to be told, in bytes.
    pub bucket_buffer_bytes: usize,
    /// Maximum size of all such changes, in bytes.
    pub buffer_bytes: usize,
}

/// Request for a stream of changes.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Bucket to watch, which the client may read.
    pub bucket: Arc<Bucket>,
    /// Keys to watch.
    pub filter: KeyFilter,
    /// Position to go on from; `None`: from now on.
    pub since: Option<ResumeToken>,
    /// True if the stream begins with what there is, unless `since` is enough.
    pub initial: bool,
    /// True if puts are told with their values.
    pub with_values: bool,
    /// Address of the client, if it is known.
    pub client: Option<IpAddr>,
}
