//! Progress of a start, for operators and other nodes that call the node meanwhile. Users aren't told:
//! it names nodes and addresses.

use std::sync::Arc;

use tokio::sync::watch;

use crate::admin::StartProgress;

/// Progress of a start. Cheap to clone.
#[derive(Clone, Default)]
pub struct StartReport {
    /// The step that the node waits for, as the admin port shows it.
    admin: StartProgress,
    /// Reason for which the node isn't admitted, while its address belongs to a member.
    address_conflict: Arc<watch::Sender<Option<String>>>,
}

impl StartReport {
    /// Sets the step that the node waits for from now on.
    pub(super) fn set_waiting_for(&self, step: impl Into<String>) {
        self.admin.set_waiting_for(step);
    }

    /// Sets the reason for which the node isn't admitted, while its address belongs to a member.
    pub(super) fn set_address_conflict(&self, conflict: Option<String>) {
        self.address_conflict.send_replace(conflict);
    }

    /// Returns the progress that the admin port shows.
    pub(super) fn admin(&self) -> &StartProgress {
        &self.admin
    }

    /// Watches the reason for which the node isn't admitted, while its address belongs to a member.
    pub(super) fn watch_address_conflict(&self) -> watch::Receiver<Option<String>> {
        self.address_conflict.subscribe()
    }
}
