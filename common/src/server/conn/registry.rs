//! Registry of the open connections, through which they are swept and ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::server::conn::liveness::{Patience, Watch};
use crate::server::conn::pulse::{Order, Pulse};
use crate::server::metrics::ConnectionMetrics;

/// Registry of a server's open connections.
pub(crate) struct Registry {
    open: Mutex<HashMap<u32, (Arc<Pulse>, Watch)>>,
    patience: Patience,
    metrics: Arc<ConnectionMetrics>,
}

impl Registry {
    pub(crate) fn new(timeouts: Patience, metrics: Arc<ConnectionMetrics>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            patience: timeouts,
            metrics,
        })
    }

    /// Adds a connection until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        let number = self.metrics.opened();
        let now = Instant::now();
        let (state, monitor) = (Arc::new(Pulse::default()), Watch::new(now));
        state.note_idle(now, 0);
        self.open
            .lock()
            .insert(number, (Arc::clone(&state), monitor));
        Entered {
            registry: Arc::clone(self),
            number,
            pulse: state,
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Checks every connection, and ends those that have been idle or stuck for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        for (state, monitor) in self.open.lock().values_mut() {
            let activity = state.marks();
            let directive = monitor.observe(activity, now, &self.patience);
            state.note_idle(monitor.idle_since(), activity.started);
            if directive > state.order() {
                self.give(state, directive);
            }
        }
    }

    /// Issues a directive to the connections for which `filter` returns true.
    pub(crate) fn command(&self, directive: Order, filter: impl Fn(&Pulse) -> bool) {
        for (state, _) in self.open.lock().values() {
            if filter(state) {
                self.give(state, directive);
            }
        }
    }

    fn give(&self, state: &Pulse, directive: Order) {
        if directive == Order::Cut {
            self.metrics.cut();
        }
        state.command(directive);
    }
}

/// Entry of a connection, which is removed when this is dropped.
pub(crate) struct Entered {
    registry: Arc<Registry>,
    /// Number of the connection, unique among ports that share their counters.
    pub(crate) number: u32,
    pub(crate) pulse: Arc<Pulse>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.registry.open.lock().remove(&self.number);
        self.registry.metrics.closed();
    }
}
