//! Members to which a leader is sending its state for a repair: see `repair`.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::NodeId;

/// Members to which this leader is sending its state for a repair. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub(super) struct RepairSends(Arc<Mutex<BTreeSet<NodeId>>>);

impl RepairSends {
    /// Adds a member until the guard is dropped; `None` if the state is being sent to it already.
    pub(super) fn begin(&self, member: NodeId) -> Option<RepairSendGuard> {
        let is_new = self.0.lock().insert(member);
        is_new.then(|| RepairSendGuard(self.clone(), member))
    }
}

/// Guard held while the state is sent to a member.
pub(super) struct RepairSendGuard(RepairSends, NodeId);

impl Drop for RepairSendGuard {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}
