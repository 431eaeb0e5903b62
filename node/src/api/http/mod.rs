//! The grammar of HTTP as this API speaks it: small, mostly pure pieces without any knowledge of
//! keys or buckets beyond their names.
//!
//! Kept apart from the handlers so that whatever parses a stranger's bytes can be tested (and
//! fuzzed) without a server.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod conditions;
pub(crate) mod cors;
pub(crate) mod dates;
pub(crate) mod etag;
pub(crate) mod headers;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod receive;
pub(crate) mod session;
pub(crate) mod ttl;
