//! Faults between clients and the nodes: routers that are killed, or stopped as planned, and
//! restarted; connections that break; clients that stop reading for some seconds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client_link::ClientLink;
use cloudkv_test_harness::Router;
use cloudkv_test_harness::rng::Rng;

/// Pause between two faults, in milliseconds.
const FAULT_INTERVAL_MS: std::ops::Range<u64> = 1000..6000;

/// Time for which a router is down, and for which clients read nothing, in milliseconds.
const DOWN_MS: std::ops::Range<u64> = 0..2000;
const STALL_MS: std::ops::Range<u64> = 1000..8000;

/// Interval at which a fault that lasts ends early with the run.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouterFault {
    Kill,
    Restart,
    Reset,
    Stall,
}

impl RouterFault {
    fn draw(rng: &mut Rng) -> Self {
        match rng.range(0..100) {
            0..20 => Self::Kill,
            20..40 => Self::Restart,
            40..65 => Self::Reset,
            _ => Self::Stall,
        }
    }
}

/// Number of times that faults happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RouterFaultCounts {
    kills: u64,
    restarts: u64,
    resets: u64,
    stalls: u64,
}

impl RouterFaultCounts {
    /// Adds other numbers.
    pub(super) fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.resets += other.resets;
        self.stalls += other.stalls;
    }
}

impl fmt::Display for RouterFaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            restarts,
            resets,
            stalls,
        } = self;
        write!(
            f,
            "{kills} routers killed, {restarts} restarted as planned, {resets} times connections \
             reset, {stalls} times clients stopped reading"
        )
    }
}

/// Routers, links of clients to them and to nodes, and their faults.
pub(super) struct RouterFaults {
    routers: Vec<Router>,
    links: Vec<ClientLink>,
    rng: Rng,
    stop: Arc<AtomicBool>,
    /// Faults that happened so far.
    pub counts: RouterFaultCounts,
}

impl RouterFaults {
    /// Creates faults of these routers and links.
    pub(super) fn new(
        routers: Vec<Router>,
        links: Vec<ClientLink>,
        rng: Rng,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            routers,
            links,
            rng,
            stop: stop.clone(),
            counts: RouterFaultCounts::default(),
        }
    }

    /// Injects faults until the run is stopped. All routers run then, and no link stalls.
    ///
    /// # Panics
    /// Panics if a router doesn't stop or doesn't come back.
    pub(super) async fn run(mut self) -> Self {
        while !self.is_stopped() {
            let pause = self.rng.millis(FAULT_INTERVAL_MS);
            self.sleep(pause).await;
            if !self.is_stopped() {
                self.inject().await;
            }
        }
        self
    }

    async fn inject(&mut self) {
        let fault = RouterFault::draw(&mut self.rng);
        let (router, link) = (
            self.rng.index(self.routers.len()),
            self.rng.index(self.links.len()),
        );
        match fault {
            RouterFault::Kill => {
                self.routers[router].kill_9();
                self.restart(router).await;
                self.counts.kills += 1;
            }
            RouterFault::Restart => {
                self.routers[router].send_sigterm();
                let status = self.routers[router].wait_exit().await;
                let code = status.code();
                assert_eq!(code, Some(0), "a router that is asked to stop: {status}");
                self.restart(router).await;
                self.counts.restarts += 1;
            }
            RouterFault::Reset => {
                self.links[link].reset_connections();
                self.counts.resets += 1;
            }
            RouterFault::Stall => {
                self.links[link].set_stalled(true);
                let duration = self.rng.millis(STALL_MS);
                self.sleep(duration).await;
                self.links[link].set_stalled(false);
                self.counts.stalls += 1;
            }
        }
    }

    async fn restart(&mut self, router: usize) {
        let down = self.rng.millis(DOWN_MS);
        tokio::time::sleep(down).await;
        self.routers[router].restart().await;
    }

    /// Sleeps, but not beyond the end of the run.
    async fn sleep(&self, duration: Duration) {
        let until = tokio::time::Instant::now() + duration;
        while !self.is_stopped() && tokio::time::Instant::now() < until {
            tokio::time::sleep(STOP_POLL_INTERVAL.min(duration)).await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns the logs of all routers.
    pub(super) fn logs(&self) -> String {
        let logs = self.routers.iter().map(Router::log_text);
        logs.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn() {
        let mut rng = Rng::new(1);
        let drawn: Vec<RouterFault> = (0..100).map(|_| RouterFault::draw(&mut rng)).collect();
        for kind in [
            RouterFault::Kill,
            RouterFault::Restart,
            RouterFault::Reset,
            RouterFault::Stall,
        ] {
            assert!(drawn.contains(&kind), "{kind:?}");
        }
    }
}
