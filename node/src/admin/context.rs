//! Access of the admin port to the node.

use std::sync::Arc;

use cloudkv_common::admin::Readiness;
use serde_json::Value;

use super::operations::Operations;

/// State that the admin port needs of the node.
pub trait AdminState: Send + Sync + 'static {
    /// Readiness of the components that the node needs. Must not block.
    fn readiness(&self) -> Readiness;
    /// All metrics as Prometheus text. May block for a short while.
    fn metrics(&self) -> String;
    /// The node's status as JSON. May block for a short while.
    fn status(&self) -> Value;
}

/// Access of the admin port to the node.
#[derive(Clone)]
pub struct AdminContext {
    /// Source of status, metrics and readiness.
    pub state: Arc<dyn AdminState>,
    /// Operations that change the node or the cluster.
    pub operations: Arc<dyn Operations>,
}
