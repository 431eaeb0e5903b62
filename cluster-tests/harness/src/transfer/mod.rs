//! Exports and imports of buckets: requests, and what their answers must be.

mod line_client;
mod lines;
mod results;

pub use line_client::{LineClient, LineStep, LineStream, Upload};
pub use lines::{complete_lines, parse_line};
pub use results::{ExportedBucket, export, import, import_end, import_lines};
