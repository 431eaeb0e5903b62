//! Fuzz targets: parsers of what users send.

mod conditions;
mod metadata;
mod paths;
mod queries;
pub(super) mod refusal;
mod router_requests;

pub use self::conditions::conditions;
pub use self::metadata::metadata;
pub use self::paths::paths;
pub use self::queries::queries;
pub use self::router_requests::router_requests;
pub use super::buckets::fuzzing::forms;
pub use super::keys::fuzzing::{batch_lines, list_queries, watch_requests};
