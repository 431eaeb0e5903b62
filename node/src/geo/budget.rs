//! Bounds what is held back for regions that lack it.
//!
//! What counts is what the change indexes of this node's replicas hold: keys, values and an overhead
//! (`held_bytes` of each shard's header, which is replicated state). Tombstones are counted where they
//! were written, by their entries. Half of the budget raises an alarm. All of it, for a while, removes
//! the absent region that lacks most, as an operator would: the others fence it, and it can come back
//! by joining anew. A region of which a node is heard is never removed: it catches up, and the alarm stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command};

use super::{Geo, Line};
use crate::meta::LEAVE_LEVEL;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// All of the budget must be taken for so long, and a region be silent for so long, until it goes.
const ABSENT: Duration = Duration::from_secs(10);

/// How much may be held back on this node, and how much is.
#[derive(Debug)]
pub struct Budget {
    /// Of the disk, in percent.
    percent: u64,
    /// In bytes; 0: no bound of its own.
    bytes: u64,
    data_dir: PathBuf,
    held: AtomicU64,
    limit: AtomicU64,
}

/// How much of the budget is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Less than half.
    Fine,
    /// Half of it, or more: somebody should look.
    Half,
    /// All of it.
    Full,
}

impl Stage {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Half => "half",
            Self::Full => "full",
        }
    }
}

impl Budget {
    /// So many percent of the disk with the data directory, and at most so many bytes if that isn't 0.
    pub fn new(percent: usize, bytes: u64, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            percent: percent as u64,
            bytes,
            data_dir,
            held: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        })
    }

    /// Bytes that are held back on this node for regions that lack them.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that may be.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// How much of it is taken.
    pub fn stage(&self) -> Stage {
        let (held, limit) = (self.held(), self.limit());
        if held >= limit {
            Stage::Full
        } else if held >= limit / 2 {
            Stage::Half
        } else {
            Stage::Fine
        }
    }

    /// Measures anew.
    fn measure(&self, geo: &Geo) -> Stage {
        let hosted = geo.shards.iter().filter(|shard| shard.is_hosted());
        let held = hosted.map(|shard| shard.view().peering().borrow().header.held_bytes);
        self.held.store(held.sum(), Ordering::Relaxed);
        // A disk that can't be asked leaves the bound as it was.
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let size = disk.f_blocks.saturating_mul(disk.f_frsize);
            let share = (size / 100).saturating_mul(self.percent);
            let most = Some(self.bytes).filter(|bytes| *bytes > 0);
            let limit = share.min(most.unwrap_or(u64::MAX)).max(2);
            self.limit.store(limit, Ordering::Relaxed);
        }
        self.stage()
    }
}

/// Looks after the budget until it is dropped.
pub(super) async fn run(geo: Arc<Geo>) {
    let mut stage = Stage::Fine;
    let mut full_since: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = geo.budget.measure(&geo);
        if now != stage {
            tell(&geo.budget, stage, now);
            stage = now;
        }
        if now != Stage::Full {
            full_since = None;
        } else if full_since.get_or_insert_with(Instant::now).elapsed() > ABSENT {
            remove_absent(&geo).await;
            full_since = None;
        }
    }
}

fn tell(budget: &Budget, before: Stage, now: Stage) {
    let (held, limit) = (budget.held(), budget.limit());
    if now > before {
        tracing::error!(
            held,
            limit,
            stage = now.name(),
            "much is held back on disk for a region that lacks it: bring it back, or remove it; with \
             all of the budget taken, an absent one is removed"
        );
    } else {
        let stage = now.name();
        tracing::info!(held, limit, stage, "less is held back for other regions");
    }
}

/// Has the metadata remove the absent region that lacks most.
async fn remove_absent(geo: &Geo) {
    let topology = geo.catalog.topology();
    if geo.catalog.header().level < LEAVE_LEVEL {
        return;
    }
    let lines = geo.ledger.lines();
    let mut lacks: BTreeMap<u32, u64> = BTreeMap::new();
    for (number, shard) in (0..).zip(&geo.shards).filter(|(_, shard)| shard.leads()) {
        let peering = shard.view().peering().borrow().clone();
        let last = peering.header.change_last;
        for peer in peering.header.peers.iter().filter(|peer| !peer.fenced) {
            if is_absent(lines.get(&(number, peer.region))) {
                *lacks.entry(peer.region).or_default() += last.saturating_sub(peer.acknowledged);
            }
        }
    }
    // A shard's leader that was just elected has heard of nobody yet: nodes tell more.
    let lives = |region: u32| {
        let mut nodes = topology.nodes_of(region);
        nodes.any(|node| geo.vitals.lives(node.id))
    };
    lacks.retain(|region, _| !lives(*region));
    let most = lacks.into_iter().max_by_key(|(_, lacks)| *lacks);
    let Some(name) = most.and_then(|(region, _)| topology.region_name(region)) else {
        return;
    };
    tracing::error!(
        region = name,
        "the budget for what is held back is used up: the region that lacks it is removed, and can \
         only come back by joining anew"
    );
    let name = name.to_owned();
    let remove = meta_command::Kind::RemoveRegion(pb::RemoveRegion { name });
    if let Err(declined) = (geo.propose)(remove).await {
        tracing::warn!(reason = declined.reason, "removing it failed, trying again");
    }
}

fn is_absent(line: Option<&Line>) -> bool {
    let heard = line.and_then(|line| line.heard);
    heard.is_none_or(|heard| heard.elapsed() > ABSENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_budget_alarms_and_all_of_it_is_full() {
        let budget = Budget::new(20, 100, PathBuf::from("/"));
        budget.limit.store(100, Ordering::Relaxed);
        for (held, stage) in [(49, Stage::Fine), (50, Stage::Half), (100, Stage::Full)] {
            budget.held.store(held, Ordering::Relaxed);
            assert_eq!(budget.stage(), stage);
        }
    }

    #[test]
    fn a_region_is_absent_that_has_not_answered_for_long() {
        assert!(is_absent(None));
        assert!(is_absent(Some(&Line::default())));
        let mut line = Line::default();
        line.heard = Some(Instant::now());
        assert!(!is_absent(Some(&line)));
    }
}
