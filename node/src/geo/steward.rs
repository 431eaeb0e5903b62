//! Looks after one shard while this node leads it: which other regions there are, how far they are,
//! which tombstones can go. All of it becomes entries of the shard, so that whoever leads next knows
//! it.

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

/// How often it looks; acknowledgements are noted no more often.
const LOOK: Duration = Duration::from_millis(100);
/// How often tombstones are looked for that can go.
const COLLECT: Duration = Duration::from_secs(1);
/// Tombstones that one entry removes at most.
const COLLECT_LIMIT: usize = 1000;
/// The first feature level of shards that knows of other regions.
const PEERS_LEVEL: u32 = 2;

/// Looks after a shard until it is dropped.
pub(super) async fn run(geo: Arc<Geo>, number: u16, shard: Arc<ShardHandle>) {
    let mut steward = Steward {
        geo,
        number,
        shard,
        senders: Senders::default(),
        collected: Instant::now(),
        swept: false,
    };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if steward.shard.leads() && steward.shard.view().is_founded() {
            steward.look().await;
        } else {
            steward.senders = Senders::default();
            steward.swept = false;
        }
    }
}

struct Steward {
    geo: Arc<Geo>,
    number: u16,
    shard: Arc<ShardHandle>,
    senders: Senders,
    collected: Instant,
    /// Whether nothing is left to be collected while there is no other region.
    swept: bool,
}

/// A sender for each other region; dropped with this.
#[derive(Default)]
struct Senders {
    tasks: JoinSet<()>,
    running: HashMap<(u32, u64), tokio::task::AbortHandle>,
}

impl Steward {
    async fn look(&mut self) {
        let peering = self.shard.view().peering().borrow().clone();
        self.follow_regions(&peering).await;
        if peering.header.adopting {
            if !peering.header.peers.is_empty() {
                self.adopt().await;
            }
            return;
        }
        self.send(&peering);
        self.acknowledge(&peering).await;
        leaving::look(&self.geo, self.number, &self.shard, &peering).await;
        if self.collected.elapsed() > COLLECT && !(peering.header.peers.is_empty() && self.swept) {
            self.collected = Instant::now();
            // Alone, it leaves no tombstones behind; what others have left goes.
            let swept = self.collect().await;
            self.swept = swept && peering.header.peers.is_empty();
        }
        if self.number == 0 {
            self.end_joining().await;
            leaving::confirm(&self.geo).await;
        }
    }

    /// Takes the regions that the metadata names.
    async fn follow_regions(&self, peering: &Peering) {
        let topology = self.geo.catalog.topology();
        let me = self.geo.me.region;
        let others = topology.all_regions().iter().filter(|(it, _)| **it != me);
        let peers: Vec<pb::Peer> = others
            .map(|(number, region)| pb::Peer {
                region: *number,
                incarnation: region.incarnation,
            })
            .collect();
        let epoch = topology.regions_epoch();
        let alone = peers.is_empty() && peering.header.peers.is_empty();
        if alone || epoch <= peering.header.peers_epoch {
            return;
        }
        if self.shard.view().level() < PEERS_LEVEL {
            // The metadata has it only if all nodes support it.
            let level = pb::SetLevel { level: PEERS_LEVEL };
            let _ = self.shard.propose(Command::SetLevel(level)).await;
        }
        let set = pb::SetPeers {
            epoch,
            peers,
            ..Default::default()
        };
        // What came of it is seen at the next look.
        let _ = self.shard.propose(Command::SetPeers(set)).await;
    }

    async fn adopt(&self) {
        let shard = self.number;
        match adoption::adopt(&self.geo, self.number, &self.shard).await {
            Ok(records) => {
                tracing::info!(shard, records, "took over what the other regions have")
            }
            Err(error) => {
                tracing::info!(
                    shard,
                    %error,
                    "taking over what the other regions have failed, trying again"
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Has a sender run for each other region, and for no other.
    fn send(&mut self, peering: &Peering) {
        let peers = peering.header.peers.iter().filter(|peer| !peer.fenced);
        let senders = &mut self.senders;
        senders.running.retain(|(region, incarnation), task| {
            let mut of = peers.clone();
            let stays = of.any(|it| it.region == *region && it.incarnation == *incarnation);
            if !stays {
                task.abort();
            }
            stays
        });
        for peer in peers {
            let name = (peer.region, peer.incarnation);
            senders.running.entry(name).or_insert_with(|| {
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

    /// Notes what other regions have acknowledged.
    async fn acknowledge(&self, peering: &Peering) {
        let peers = peering.header.peers.iter();
        let news = peers.filter_map(|peer| {
            let position = self.geo.ledger.confirmed(self.number, peer);
            (position > peer.acknowledged).then_some(pb::PeerPosition {
                region: peer.region,
                incarnation: peer.incarnation,
                position,
            })
        });
        let peers: Vec<_> = news.collect();
        if !peers.is_empty() {
            let acknowledge = Command::Acknowledge(pb::Acknowledge { peers });
            let _ = self.shard.propose(acknowledge).await;
        }
    }

    /// Removes the tombstones that nothing older can meet any more. Returns whether none of them is
    /// left.
    async fn collect(&self) -> bool {
        loop {
            let view = self.shard.view().clone();
            let find = tokio::task::spawn_blocking(move || view.collectable(COLLECT_LIMIT));
            let tombstones = match find.await {
                Ok(Ok(tombstones)) => tombstones,
                Ok(Err(error)) => {
                    tracing::error!(%error, "look for tombstones that can go");
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

    /// Tells the metadata when all shards of a region that joins serve.
    async fn end_joining(&self) {
        let region = self.geo.me.region;
        let topology = self.geo.catalog.topology();
        if !topology.region(region).is_some_and(|it| it.joining) {
            return;
        }
        if adoption::all_open(&self.geo).await {
            let joined = meta_command::Kind::RegionJoined(pb::RegionJoined { region });
            // What came of it shows in the topology.
            let _ = (self.geo.propose)(joined).await;
        }
    }
}
