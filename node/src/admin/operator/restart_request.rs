//! Request to stop the process, so that its next start carries out a recovery.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Request to stop the process, so that its next start carries out a recovery. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RestartRequest {
    reason: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl RestartRequest {
    /// Creates a request that nobody has made yet; `stop` stops the node.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            reason: Arc::default(),
            stop,
        }
    }

    /// Requests the restart, and stops the node. The first reason stays.
    pub(super) fn request(&self, reason: String) {
        self.reason.get_or_init(|| reason);
        self.stop.cancel();
    }

    /// Returns the reason, if the restart was requested.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stops_the_node_with_its_first_reason() {
        let stop = CancellationToken::new();
        let request = RestartRequest::new(stop.clone());
        assert_eq!(request.reason(), None);
        assert!(!stop.is_cancelled());
        request.clone().request("first".to_owned());
        request.request("second".to_owned());
        assert_eq!(request.reason(), Some("first"));
        assert!(stop.is_cancelled());
    }
}
