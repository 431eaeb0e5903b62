//! What the node tells about itself: logs on standard error, metrics on the operator's port.

mod folding;
pub mod logs;
pub mod metrics;
pub mod presence;
