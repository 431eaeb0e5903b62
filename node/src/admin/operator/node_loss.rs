//! Waits until a node that was just lost counts as such.

use std::time::Duration;

use crate::cluster::LocalGroups;
use crate::types::NodeId;

/// Time to wait for a node that was just lost, since it may still count as alive for a moment.
const NODE_LOSS_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval between checks of the node.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until a node isn't alive any more. Returns whether that is so before the timeout; this
/// node itself is never lost.
pub(super) async fn wait_until_lost(groups: &LocalGroups, node: NodeId) -> bool {
    if groups.identity.node_id == node {
        return false;
    }
    let silent = async {
        while groups.failure_detector.is_alive(node) {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    };
    tokio::time::timeout(NODE_LOSS_TIMEOUT, silent)
        .await
        .is_ok()
}
