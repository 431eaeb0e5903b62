//! Fuzz targets of requests for many keys.

pub use super::batch::fuzzing::batch_lines;
pub use super::list::fuzzing::list_queries;
