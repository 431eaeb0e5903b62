//! Fuzz targets of requests for many keys, and for streams.

pub use super::batch::fuzzing::batch_lines;
pub use super::list::fuzzing::list_queries;
pub use super::watch::fuzzing::watch_requests;
