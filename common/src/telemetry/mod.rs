//! Telemetry: logs on standard error, metrics on the admin port.

mod log_dedup;
pub mod logs;
pub mod metrics;
pub mod presence;
