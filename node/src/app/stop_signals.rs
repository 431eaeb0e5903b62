//! Signals that stop the parts of a node one after the other.

use tokio_util::sync::CancellationToken;

/// Signals that stop the parts of a node, in the order in which they are given.
#[derive(Clone)]
pub(super) struct StopSignals {
    /// Stops the node, as a signal does.
    pub node: CancellationToken,
    /// Stops placement decisions, before leadership is transferred.
    pub placement: CancellationToken,
    /// Stops the groups' background tasks, after the last request has completed.
    pub groups: CancellationToken,
    /// Stops the admin port and the server of the rpc port, after the groups.
    pub admin: CancellationToken,
}

impl StopSignals {
    /// Creates the signals of a node that `node` stops.
    pub(super) fn new(node: CancellationToken) -> Self {
        let groups = CancellationToken::new();
        Self {
            node,
            placement: groups.child_token(),
            groups,
            admin: CancellationToken::new(),
        }
    }
}
