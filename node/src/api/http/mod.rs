//! The HTTP grammar of this API: small, mostly pure modules without any knowledge of keys or
//! buckets beyond their names.
//!
//! They are separate from the handlers so that all parsers of untrusted bytes can be tested (and
//! fuzzed) without a server.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod conditions;
pub(crate) mod cors;
pub(crate) mod cursor;
pub(crate) mod dates;
pub(crate) mod ended_stream;
pub(crate) mod etag;
pub(crate) mod expiry;
pub(crate) mod headers;
pub(crate) mod metadata;
pub(crate) mod paging;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod receive;
pub(crate) mod request_headers;
pub(crate) mod session;
pub(crate) mod ttl;
