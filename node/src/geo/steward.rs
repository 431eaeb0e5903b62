//! Controls the replication of one shard while this node leads it: the set of other regions, their
//! progress, and the removal of tombstones. All of it becomes entries of the shard, so the next
//! leader knows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command, shard_command::Kind as Command};
use tokio::task::JoinSet;

use super::Geo;
use super::adoption;
use super::leaving;
use super::sender::Sender;
use crate::shard::{Peering, ShardHandle};

/// Interval between two checks, and thus minimum time between two entries for acknowledgements.
const LOOK: Duration = Duration::from_millis(100);
/// Interval at which removable tombstones are searched for.
const COLLECT: Duration = Duration::from_secs(1);
/// Maximum number of tombstones that one entry removes.
const COLLECT_LIMIT: usize = 1000;
/// First feature level of shards with support for other regions.
const PEERS_LEVEL: u32 = 2;

/// Controls the replication of a shard until dropped.
pub(super) async fn run(geo: Arc<Geo>, number: u16, shard: Arc<ShardHandle>) {
    let mut controller = Steward {
        geo,
        number,
        shard,
        senders: Senders::default(),
        collected: Instant::now(),
        swept: false,
    };
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if controller.shard.leads() && controller.shard.view().is_founded() {
            controller.look().await;
        } else {
            controller.senders = Senders::default();
            controller.swept = false;
        }
    }
}

struct Steward {
    geo: Arc<Geo>,
    number: u16,
    shard: Arc<ShardHandle>,
    senders: Senders,
    collected: Instant,
    /// Set once no tombstone is left while there is no other region.
    swept: bool,
}

/// Tasks of the senders, one for each other region; aborted on drop.
#[derive(Default)]
struct Senders {
    tasks: JoinSet<()>,
    running: HashMap<(u32, u64), tokio::task::AbortHandle>,
}

impl Steward {
    async fn look(&mut self) {
        let replication = self.shard.view().peering().borrow().clone();
        self.follow_regions(&replication).await;
        if replication.header.adopting {
            if !replication.header.peers.is_empty() {
                self.adopt().await;
            }
            return;
        }
        self.send(&replication);
        self.acknowledge(&replication).await;
        leaving::look(&self.geo, self.number, &self.shard, &replication).await;
        if self.collected.elapsed() > COLLECT && !(replication.header.peers.is_empty() && self.swept) {
            self.collected = Instant::now();
            // A region without others keeps no tombstones; those from before are removed.
            let is_swept = self.collect().await;
            self.swept = is_swept && replication.header.peers.is_empty();
        }
        if self.number == 0 {
            self.end_joining().await;
            leaving::confirm(&self.geo).await;
        }
    }

    /// Proposes the regions that the metadata lists.
    async fn follow_regions(&self, replication: &Peering) {
        let topology = self.geo.catalog.topology();
        let me = self.geo.me.region;
        let regions = topology.all_regions().iter().filter(|(it, _)| **it != me);
        let peers: Vec<pb::Peer> = regions
            .map(|(number, region)| pb::Peer {
                region: *number,
                incarnation: region.incarnation,
            })
            .collect();
        let epoch = topology.regions_epoch();
        let has_no_peers = peers.is_empty() && replication.header.peers.is_empty();
        if has_no_peers || epoch <= replication.header.peers_epoch {
            return;
        }
        if self.shard.view().level() < PEERS_LEVEL {
            // The metadata lists other regions only if all nodes support them.
            let level = pb::SetLevel { level: PEERS_LEVEL };
            let _ = self.shard.propose(Command::SetLevel(level)).await;
        }
        let set = pb::SetPeers {
            epoch,
            peers,
            ..Default::default()
        };
        // The next check sees the result.
        let _ = self.shard.propose(Command::SetPeers(set)).await;
    }

    async fn adopt(&self) {
        let shard = self.number;
        match adoption::adopt(&self.geo, self.number, &self.shard).await {
            Ok(records) => tracing::info!(shard, records, "shard seeded from another region"),
            Err(error) => {
                tracing::info!(shard, %error, "seeding from another region failed, retrying");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Starts a sender for each other region, and stops the senders of removed ones.
    fn send(&mut self, replication: &Peering) {
        let peers = replication.header.peers.iter().filter(|peer| !peer.fenced);
        let senders = &mut self.senders;
        senders.running.retain(|(region, incarnation), task| {
            let mut current = peers.clone();
            let is_current = current.any(|it| it.region == *region && it.incarnation == *incarnation);
            if !is_current {
                task.abort();
            }
            is_current
        });
        for peer in peers {
            let key = (peer.region, peer.incarnation);
            senders.running.entry(key).or_insert_with(|| {
                let sender = Sender {
                    geo: self.geo.clone(),
                    number: self.number,
                    shard: self.shard.clone(),
                    to: pb::Peer {
                        region: peer.region,
                        incarnation: peer.incarnation,
                    },
                };
                senders.tasks.spawn(sender.run())
            });
        }
    }

    /// Proposes to record the positions that other regions have acknowledged.
    async fn acknowledge(&self, replication: &Peering) {
        let peers = replication.header.peers.iter();
        let advanced = peers.filter_map(|peer| {
            let position = self.geo.ledger.confirmed(self.number, peer);
            (position > peer.acknowledged).then_some(pb::PeerPosition {
                region: peer.region,
                incarnation: peer.incarnation,
                position,
            })
        });
        let peers: Vec<_> = advanced.collect();
        if !peers.is_empty() {
            let acknowledge = Command::Acknowledge(pb::Acknowledge { peers });
            let _ = self.shard.propose(acknowledge).await;
        }
    }

    /// Removes the tombstones that can't meet older changes any more. Returns whether none is left.
    async fn collect(&self) -> bool {
        loop {
            let view = self.shard.view().clone();
            let find = tokio::task::spawn_blocking(move || view.collectable(COLLECT_LIMIT));
            let tombstones = match find.await {
                Ok(Ok(tombstones)) => tombstones,
                Ok(Err(error)) => {
                    tracing::error!(%error, "search for removable tombstones failed");
                    return false;
                }
                Err(_) => return false,
            };
            let full = tombstones.len() >= COLLECT_LIMIT;
            if tombstones.is_empty() {
                return true;
            }
            let collect = Command::Collect(pb::Collect { tombstones });
            if self.shard.propose(collect).await.is_err() || !full {
                return false;
            }
        }
    }

    /// Reports to the metadata once all shards of a joining region serve.
    async fn end_joining(&self) {
        let region = self.geo.me.region;
        let topology = self.geo.catalog.topology();
        if !topology.region(region).is_some_and(|it| it.joining) {
            return;
        }
        if adoption::all_open(&self.geo).await {
            let joined = meta_command::Kind::RegionJoined(pb::RegionJoined { region });
            // The topology shows the result.
            let _ = (self.geo.propose)(joined).await;
        }
    }
}
