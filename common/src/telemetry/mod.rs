//! Telemetry: logs on standard error, metrics on the admin port.

mod folding;
pub mod logs;
pub mod metrics;
pub mod presence;
