//! A proxy between two nodes: accepts connections from one, and dials the other for each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::bottleneck::Bottleneck;
use super::link_control::LinkControl;
use super::link_shape::{Direction, LinkStats};
use super::pump::Pump;
use crate::rng::Rng;

/// A proxy before it runs.
pub(super) struct Proxy {
    pub listener: std::net::TcpListener,
    pub target: SocketAddr,
    pub changes: watch::Receiver<LinkControl>,
    pub stats: Arc<LinkStats>,
    /// Bandwidth limits that all links of the two nodes share, for requests and for replies.
    pub bottlenecks: [[Arc<Bottleneck>; 2]; 2],
    pub seed: u64,
}

/// Runs proxies on this thread until it is stopped.
pub(super) fn run(proxies: Vec<Proxy>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("make the network's runtime");
    runtime.block_on(async {
        for proxy in proxies {
            tokio::spawn(proxy.run());
        }
        // An error means that the network was dropped, which is a stop, too.
        let _ = stopped.await;
    });
}

impl Proxy {
    /// Accepts connections, but only while the target listens.
    async fn run(mut self) {
        let address = self.listener.local_addr().expect("a bound listener");
        self.listener
            .set_nonblocking(true)
            .expect("a listener of a runtime");
        let mut listener = TcpListener::from_std(self.listener).ok();
        let mut connections = 0;
        loop {
            if !self.changes.borrow().is_listening {
                // An open listener would accept connections that nobody serves.
                listener = None;
            }
            if self
                .changes
                .wait_for(|control| control.is_listening)
                .await
                .is_err()
            {
                return;
            }
            let Some(open) = listener.take() else {
                listener = TcpListener::bind(address).await.ok();
                if listener.is_none() {
                    // Connections from before may hold the address for a moment.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                continue;
            };
            let accepted = tokio::select! {
                accepted = open.accept() => accepted,
                // The target no longer listens; an error means that the network was dropped.
                changed = self.changes.wait_for(|control| !control.is_listening) => match changed {
                    Ok(_) => continue,
                    Err(_) => return,
                },
            };
            listener = Some(open);
            let Ok((dialler, _)) = accepted else { continue };
            connections += 1;
            let connection = ProxiedConnection {
                changes: self.changes.clone(),
                stats: self.stats.clone(),
                bottlenecks: self.bottlenecks.clone(),
                rng: Rng::derived(self.seed, connections),
            };
            tokio::spawn(connection.run(dialler, self.target));
        }
    }
}

struct ProxiedConnection {
    changes: watch::Receiver<LinkControl>,
    stats: Arc<LinkStats>,
    bottlenecks: [[Arc<Bottleneck>; 2]; 2],
    rng: Rng,
}

impl ProxiedConnection {
    async fn run(mut self, mut dialler: TcpStream, target: SocketAddr) {
        let mut changes = self.changes.clone();
        let mut targets = None;
        let ended = tokio::select! {
            ended = self.forward(&mut dialler, target, &mut targets) => ended,
            _ = changes.wait_for(|control| control.shape.resets_connections) => None,
        };
        if ended.is_none() {
            LinkStats::increment(&self.stats.reset);
            for stream in [Some(dialler), targets].into_iter().flatten() {
                // Closes with a reset. Fails only if it is closed already.
                let _ = stream.set_zero_linger();
            }
        }
    }

    /// Forwards bytes both ways to their end; `None` if the connection must be reset.
    async fn forward(
        &mut self,
        dialler: &mut TcpStream,
        address: SocketAddr,
        target: &mut Option<TcpStream>,
    ) -> Option<()> {
        // Where requests don't pass, neither do packets that open a connection.
        let passes = |control: &LinkControl| !control.shape.requests.is_cut;
        self.changes.wait_for(passes).await.ok()?;
        let target = target.insert(TcpStream::connect(address).await.ok()?);
        dialler.set_nodelay(true).ok()?;
        target.set_nodelay(true).ok()?;
        let (from_dialler, to_dialler) = dialler.split();
        let (from_target, to_target) = target.split();
        let (requests, replies) = (
            self.pump(Direction::Requests),
            self.pump(Direction::Replies),
        );
        let both = tokio::try_join!(
            requests.run(from_dialler, to_target),
            replies.run(from_target, to_dialler)
        );
        both.ok().map(|_| ())
    }

    fn pump(&mut self, direction: Direction) -> Pump {
        Pump {
            direction,
            changes: self.changes.clone(),
            stats: self.stats.clone(),
            bottlenecks: self.bottlenecks[direction as usize].clone(),
            rng: Rng::new(self.rng.next_u64()),
        }
    }
}
