//! State of a replica's repair: see `repair`.

use std::sync::Arc;

use super::types::LogId;
use crate::store::GroupDamage;
use crate::types::NodeId;

/// Progress of a replica's repair, and what it needs.
pub(super) struct RepairState {
    /// `None`: it can't be repaired, so damage found when applying stops the group.
    pub(super) context: Option<RepairContext>,
    /// Position of the last batch that was written.
    pub(super) last_written: Option<LogId>,
    /// Last entry that openraft counts as applied, while nothing is applied.
    pub(super) skipped_to: Option<LogId>,
}

/// Node of a replica that can be repaired, and the damage of its group there.
pub(super) struct RepairContext {
    pub(super) node: NodeId,
    pub(super) damage: Arc<GroupDamage>,
}

impl RepairState {
    pub(super) fn new(last_written: Option<LogId>) -> Self {
        Self {
            context: None,
            last_written,
            skipped_to: None,
        }
    }
}
