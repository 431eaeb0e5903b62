//! All open connections, to look after them and to end them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::server::conn::liveness::{Patience, Watch};
use crate::server::conn::pulse::{Order, Pulse};
use crate::server::metrics::ConnectionMetrics;

/// All open connections.
pub(crate) struct Registry {
    open: Mutex<HashMap<u32, (Arc<Pulse>, Watch)>>,
    patience: Patience,
    metrics: Arc<ConnectionMetrics>,
}

impl Registry {
    pub(crate) fn new(patience: Patience, metrics: Arc<ConnectionMetrics>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            patience,
            metrics,
        })
    }

    /// Adds a connection until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        let number = self.metrics.opened();
        let now = Instant::now();
        let (pulse, watch) = (Arc::new(Pulse::default()), Watch::new(now));
        pulse.note_idle(now, 0);
        self.open.lock().insert(number, (Arc::clone(&pulse), watch));
        Entered {
            registry: Arc::clone(self),
            number,
            pulse,
        }
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Looks at every connection, and ends those that are idle or stuck.
    pub(crate) fn sweep(&self, now: Instant) {
        for (pulse, watch) in self.open.lock().values_mut() {
            let marks = pulse.marks();
            let order = watch.observe(marks, now, &self.patience);
            pulse.note_idle(watch.idle_since(), marks.started);
            if order > pulse.order() {
                self.give(pulse, order);
            }
        }
    }

    /// Gives an order to the connections that `which` picks.
    pub(crate) fn command(&self, order: Order, which: impl Fn(&Pulse) -> bool) {
        for (pulse, _) in self.open.lock().values() {
            if which(pulse) {
                self.give(pulse, order);
            }
        }
    }

    fn give(&self, pulse: &Pulse, order: Order) {
        if order == Order::Cut {
            self.metrics.cut();
        }
        pulse.command(order);
    }
}

/// A connection's place among the open ones.
pub(crate) struct Entered {
    registry: Arc<Registry>,
    /// Its number: ports that share their counters have no two alike.
    pub(crate) number: u32,
    pub(crate) pulse: Arc<Pulse>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.registry.open.lock().remove(&self.number);
        self.registry.metrics.closed();
    }
}
