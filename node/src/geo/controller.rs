//! Controls the replication of one shard while this node leads it: the set of other regions, their
//! progress, and the removal of tombstones. All of it becomes entries of the shard, so the next
//! leader knows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command, shard_command::Kind as Command};
use tokio::task::JoinSet;

use super::replication::GeoReplication;
use super::sender::ChangeSender;
use super::{region_removal, seeding};
use crate::shard::{KEY_METADATA_LEVEL, ReplicationView, ShardHandle};

/// Interval between two checks, and thus minimum time between two entries for acknowledgements.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which removable tombstones are searched for.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of tombstones that one entry removes.
const MAX_COLLECTED_TOMBSTONES: usize = 1000;

/// Controls the replication of a shard until dropped.
pub(super) async fn run(geo: Arc<GeoReplication>, number: u16, shard: Arc<ShardHandle>) {
    let mut controller = ReplicationController {
        geo,
        number,
        shard,
        senders: SenderTasks::default(),
        last_collection: Instant::now(),
        is_swept: false,
    };
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if controller.shard.is_leading() && controller.shard.view().is_bootstrapped() {
            controller.check().await;
        } else {
            controller.senders = SenderTasks::default();
            controller.is_swept = false;
        }
    }
}

struct ReplicationController {
    geo: Arc<GeoReplication>,
    number: u16,
    shard: Arc<ShardHandle>,
    senders: SenderTasks,
    last_collection: Instant,
    /// Set once no tombstone is left while there is no other region.
    is_swept: bool,
}

/// Tasks of the senders, one for each other region; aborted on drop.
#[derive(Default)]
struct SenderTasks {
    tasks: JoinSet<()>,
    running: HashMap<(u32, u64), tokio::task::AbortHandle>,
}

impl ReplicationController {
    async fn check(&mut self) {
        let replication = self.shard.view().replication().borrow().clone();
        self.update_peers(&replication).await;
        self.raise_level().await;
        if replication.header.seeding {
            if !replication.header.peers.is_empty() {
                self.seed().await;
            }
            return;
        }
        self.update_senders(&replication);
        self.propose_acknowledgements(&replication).await;
        region_removal::run_next_step(&self.geo, self.number, &self.shard, &replication).await;
        if self.last_collection.elapsed() > COLLECT_INTERVAL
            && !(replication.header.peers.is_empty() && self.is_swept)
        {
            self.last_collection = Instant::now();
            // A region without others keeps no tombstones; those from before are removed.
            let is_swept = self.collect_tombstones().await;
            self.is_swept = is_swept && replication.header.peers.is_empty();
        }
        if self.number == 0 {
            self.finish_joining().await;
            region_removal::report_reconciled(&self.geo).await;
        }
    }

    /// Proposes the regions that the metadata lists.
    async fn update_peers(&self, replication: &ReplicationView) {
        let topology = self.geo.catalog.topology();
        let me = self.geo.local.region;
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
        let set = pb::SetPeers { epoch, peers };
        // The next check sees the result.
        let _ = self.shard.propose(Command::SetPeers(set)).await;
    }

    /// Raises the shard's feature level once all nodes of the cluster know metadata of keys, which
    /// other regions may send from then on.
    async fn raise_level(&self) {
        if self.geo.catalog.header().level >= KEY_METADATA_LEVEL {
            // Tried again with the next check.
            let _ = self.shard.raise_level(KEY_METADATA_LEVEL).await;
        }
    }

    async fn seed(&self) {
        let shard = self.number;
        match seeding::seed(&self.geo, self.number, &self.shard).await {
            Ok(records) => tracing::info!(shard, records, "shard seeded from another region"),
            Err(error) => {
                tracing::info!(shard, %error, "seeding from another region failed, retrying");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Starts a sender for each other region, and stops the senders of removed ones.
    fn update_senders(&mut self, replication: &ReplicationView) {
        let peers = replication.header.peers.iter().filter(|peer| !peer.fenced);
        let senders = &mut self.senders;
        senders.running.retain(|(region, incarnation), task| {
            let mut current = peers.clone();
            let is_current =
                current.any(|it| it.region == *region && it.incarnation == *incarnation);
            if !is_current {
                task.abort();
            }
            is_current
        });
        for peer in peers {
            let key = (peer.region, peer.incarnation);
            senders.running.entry(key).or_insert_with(|| {
                let sender = ChangeSender {
                    geo: self.geo.clone(),
                    number: self.number,
                    shard: self.shard.clone(),
                    target: pb::Peer {
                        region: peer.region,
                        incarnation: peer.incarnation,
                    },
                };
                senders.tasks.spawn(sender.run())
            });
        }
    }

    /// Proposes to record the positions that other regions have acknowledged.
    async fn propose_acknowledgements(&self, replication: &ReplicationView) {
        let peers = replication.header.peers.iter();
        let advanced = peers.filter_map(|peer| {
            let position = self.geo.status.acknowledged(self.number, peer);
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
    async fn collect_tombstones(&self) -> bool {
        loop {
            let view = self.shard.view().clone();
            let find = tokio::task::spawn_blocking(move || {
                view.collectable_tombstones(MAX_COLLECTED_TOMBSTONES)
            });
            let tombstones = match find.await {
                Ok(Ok(tombstones)) => tombstones,
                Ok(Err(error)) => {
                    tracing::error!(%error, "search for removable tombstones failed");
                    return false;
                }
                Err(_) => return false,
            };
            let full = tombstones.len() >= MAX_COLLECTED_TOMBSTONES;
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
    async fn finish_joining(&self) {
        let region = self.geo.local.region;
        let topology = self.geo.catalog.topology();
        if !topology.region(region).is_some_and(|it| it.is_joining) {
            return;
        }
        if seeding::is_region_serving(&self.geo).await {
            let joined = meta_command::Kind::RegionJoined(pb::RegionJoined { region });
            // The topology shows the result.
            let _ = (self.geo.propose)(joined).await;
        }
    }
}
