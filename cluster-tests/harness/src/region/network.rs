//! The network between the nodes of a region.
//!
//! Its proxies run on a thread of their own, so that a test that blocks doesn't delay the nodes'
//! heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::bottleneck::Bottleneck;
use super::link_control::LinkControl;
use super::link_shape::{Direction, FlowShape, LinkShape, LinkStats};
use super::proxy;
use super::seats::{self, Seat};

/// Bandwidth limits that all links of a node share, in each direction.
#[derive(Clone, Default)]
struct Uplink {
    inbound: Arc<Bottleneck>,
    outbound: Arc<Bottleneck>,
}

struct Link {
    control: watch::Sender<LinkControl>,
    stats: Arc<LinkStats>,
}

/// The proxies between all ordered pairs of seats.
pub struct Network {
    seats: Vec<Seat>,
    /// Links by the seat that dials, then by the one that is dialled.
    links: Vec<Vec<Option<Link>>>,
    /// Bandwidth limits by seat.
    uplinks: Vec<Uplink>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts a network with this many seats and without faults. `seed` decides what its lossy
    /// links lose.
    ///
    /// # Panics
    /// Panics if no addresses are free.
    pub fn start(count: usize, seed: u64) -> Self {
        let (seats, listeners) = seats::allocate(count);
        let mut proxies = vec![];
        let mut links = vec![];
        let uplinks: Vec<Uplink> = (0..count).map(|_| Uplink::default()).collect();
        for (from, row) in listeners.into_iter().enumerate() {
            let mut of_seat = vec![];
            for (to, listener) in row.into_iter().enumerate() {
                of_seat.push(listener.map(|listener| {
                    let (control, changes) = watch::channel(LinkControl::default());
                    let stats = Arc::new(LinkStats::default());
                    proxies.push(proxy::Proxy {
                        listener,
                        target: seats[to].rpc(),
                        changes,
                        stats: stats.clone(),
                        bottlenecks: [(from, to), (to, from)].map(|(sender, receiver)| {
                            let sender = uplinks[sender].outbound.clone();
                            [sender, uplinks[receiver].inbound.clone()]
                        }),
                        seed: seed ^ (from * count + to) as u64,
                    });
                    Link { control, stats }
                }));
            }
            links.push(of_seat);
        }
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("network".into())
            .spawn(move || proxy::run(proxies, stopped))
            .expect("start the network's thread");
        Self {
            seats,
            links,
            uplinks,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Returns the addresses of the nodes.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Returns the value of `--rpc-via` for the node at this seat.
    pub fn rpc_via(&self, from: usize) -> String {
        let others = (0..self.seats.len()).filter(|to| *to != from);
        let pairs: Vec<String> = others
            .map(|to| format!("{}={}", self.seats[to].rpc(), self.seats[from].proxy_to(to)))
            .collect();
        pairs.join(",")
    }

    /// Changes the shape of the link by which `from` dials `to`.
    ///
    /// # Panics
    /// Panics if they are the same.
    pub fn shape(&self, from: usize, to: usize, change: impl FnOnce(&mut LinkShape)) {
        let link = self.link(from, to);
        link.control
            .send_modify(|control| change(&mut control.shape));
    }

    /// Sets the baseline of both directions of a link, which [`Network::heal`] restores.
    ///
    /// # Panics
    /// Panics if the nodes are the same.
    pub fn set_baseline(&self, from: usize, to: usize, flow: FlowShape) {
        let usual = LinkShape {
            requests: flow,
            replies: flow,
            resets_connections: false,
        };
        self.link(from, to).control.send_modify(|control| {
            control.baseline = usual;
            control.shape = usual;
        });
    }

    /// Stops all traffic from one node to another, requests and replies, but not the other way.
    pub fn cut_direction(&self, from: usize, to: usize) {
        let cut = |flow: &mut FlowShape| flow.is_cut = true;
        self.shape(from, to, |link| cut(link.flow_mut(Direction::Requests)));
        self.shape(to, from, |link| cut(link.flow_mut(Direction::Replies)));
    }

    /// Stops all traffic between two nodes.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_direction(one, other);
        self.cut_direction(other, one);
    }

    /// Stops all traffic between a node and the others.
    pub fn isolate(&self, node: usize) {
        for other in self.others(node) {
            self.cut(node, other);
        }
    }

    /// Resets connections between a node and the others, existing and new ones.
    pub fn reset_connections(&self, node: usize) {
        for other in self.others(node) {
            for (from, to) in [(node, other), (other, node)] {
                self.shape(from, to, |link| link.resets_connections = true);
            }
        }
    }

    /// Changes both directions of all links between a node and the others.
    pub fn shape_all(&self, node: usize, change: impl Fn(&mut FlowShape)) {
        for other in self.others(node) {
            for (from, to) in [(node, other), (other, node)] {
                self.shape(from, to, |link| {
                    change(&mut link.requests);
                    change(&mut link.replies);
                });
            }
        }
    }

    /// Delays all traffic between a node and the others, in each direction.
    pub fn delay(&self, node: usize, delay: Duration, jitter: Duration) {
        self.shape_all(node, |flow| {
            flow.delay = delay;
            flow.jitter = jitter;
        });
    }

    /// Limits the rate of each link between a node and the others, in bytes per second and
    /// direction.
    pub fn limit_links(&self, node: usize, rate: u64) {
        self.shape_all(node, |flow| flow.bytes_per_sec = rate);
    }

    /// Limits the rate of all links of a node together, in bytes per second and direction; 0:
    /// unlimited. The limit has a queue as that of a real connection.
    pub fn limit_uplink(&self, node: usize, rate: u64) {
        let uplink = &self.uplinks[node];
        uplink.inbound.set_rate(rate);
        uplink.outbound.set_rate(rate);
    }

    /// Returns the number of bytes that have passed to a node since its connection was limited
    /// first.
    pub fn bytes_passed_to(&self, node: usize) -> u64 {
        self.uplinks[node].inbound.passed_bytes()
    }

    /// Releases everything that was held back, and restores the baseline of all links.
    pub fn heal(&self) {
        for link in self.links.iter().flatten().flatten() {
            link.control
                .send_modify(|control| control.shape = control.baseline);
        }
        for node in 0..self.uplinks.len() {
            self.limit_uplink(node, 0);
        }
    }

    /// Sets whether the node at this seat listens: connections to a node that doesn't are refused.
    pub fn set_listening(&self, node: usize, is_listening: bool) {
        for from in self.others(node) {
            let link = self.link(from, node);
            link.control
                .send_modify(|control| control.is_listening = is_listening);
        }
    }

    /// Returns the number of chunks and connections that a fault has affected so far, on all links.
    pub fn affected_count(&self) -> u64 {
        let links = self.links.iter().flatten().flatten();
        links.map(|link| link.stats.affected_count()).sum()
    }

    /// Returns the sum of one counter over all links.
    pub fn sum_stats(&self, counter: impl Fn(&LinkStats) -> &AtomicU64) -> u64 {
        let links = self.links.iter().flatten().flatten();
        links
            .map(|link| counter(&link.stats).load(Ordering::Relaxed))
            .sum()
    }

    /// Returns the sum of one counter over the links between these pairs, in both directions.
    pub fn sum_stats_between(
        &self,
        pairs: &[(usize, usize)],
        counter: impl Fn(&LinkStats) -> &AtomicU64,
    ) -> u64 {
        let both = pairs.iter().flat_map(|(one, other)| {
            [(*one, *other), (*other, *one)].map(|(from, to)| self.link(from, to))
        });
        both.map(|link| counter(&link.stats).load(Ordering::Relaxed))
            .sum()
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.seats.len()).filter(move |other| *other != node)
    }

    fn link(&self, from: usize, to: usize) -> &Link {
        self.links[from][to]
            .as_ref()
            .expect("a link between different nodes")
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("seats", &self.seats)
            .finish_non_exhaustive()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Fails only if the thread has exited already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
