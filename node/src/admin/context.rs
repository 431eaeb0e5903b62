//! Access of the admin port to the node.

use std::sync::Arc;

use cloudkv_common::admin::AdminState;

use super::operations::Operations;

/// Access of the admin port to the node.
#[derive(Clone)]
pub struct AdminContext {
    /// Source of status, metrics and readiness.
    pub state: Arc<dyn AdminState>,
    /// Operations that change the node or the cluster.
    pub operations: Arc<dyn Operations>,
}
