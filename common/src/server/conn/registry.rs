//! Registry of the open connections, through which they are swept and ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::server::conn::liveness::{ConnectionMonitor, ConnectionTimeouts};
use crate::server::conn::state::{ConnectionState, Directive};
use crate::server::metrics::ConnectionMetrics;

/// Registry of a server's open connections.
pub(crate) struct ConnectionRegistry {
    open: Mutex<HashMap<u32, (Arc<ConnectionState>, ConnectionMonitor)>>,
    timeouts: ConnectionTimeouts,
    metrics: Arc<ConnectionMetrics>,
}

impl ConnectionRegistry {
    pub(crate) fn new(timeouts: ConnectionTimeouts, metrics: Arc<ConnectionMetrics>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            timeouts,
            metrics,
        })
    }

    /// Adds a connection until the guard is dropped.
    pub(crate) fn register(self: &Arc<Self>) -> RegistryEntry {
        let number = self.metrics.record_opened();
        let now = Instant::now();
        let (state, monitor) = (
            Arc::new(ConnectionState::default()),
            ConnectionMonitor::new(now),
        );
        state.set_idle_since(now, 0);
        self.open
            .lock()
            .insert(number, (Arc::clone(&state), monitor));
        RegistryEntry {
            registry: Arc::clone(self),
            number,
            state,
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Checks every connection, and ends those that have been idle or stuck for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        for (state, monitor) in self.open.lock().values_mut() {
            let activity = state.activity();
            let directive = monitor.observe(activity, now, &self.timeouts);
            state.set_idle_since(monitor.idle_since(), activity.started);
            if directive > state.directive() {
                self.issue(state, directive);
            }
        }
    }

    /// Issues a directive to the connections for which `filter` returns true.
    pub(crate) fn issue_where(
        &self,
        directive: Directive,
        filter: impl Fn(&ConnectionState) -> bool,
    ) {
        for (state, _) in self.open.lock().values() {
            if filter(state) {
                self.issue(state, directive);
            }
        }
    }

    fn issue(&self, state: &ConnectionState, directive: Directive) {
        if directive == Directive::Cut {
            self.metrics.record_cut();
        }
        state.issue(directive);
    }
}

/// Entry of a connection, which is removed when this is dropped.
pub(crate) struct RegistryEntry {
    registry: Arc<ConnectionRegistry>,
    /// Number of the connection, unique among ports that share their counters.
    pub(crate) number: u32,
    pub(crate) state: Arc<ConnectionState>,
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        self.registry.open.lock().remove(&self.number);
        self.registry.metrics.record_closed();
    }
}
