//! Whether this node can answer for all shards of its region now, by itself or through another
//! node, and why not.
//!
//! A leader counts while it is heard, and while it says that a majority is behind it: one that is
//! only remembered is none. An ordinary election doesn't make a node unready, since requests are
//! held meanwhile: the signs of the old leader count for two election timeouts.
//!
//! The metadata needs no leader for that: a region that is cut off goes on with what it has. A node
//! that has started and hears a leader waits until it has what that one had.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloudkv_common::admin::{Part, Readiness};

use super::groups::Groups;
use crate::raft::{Group, Machine, NodeId};
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;
use crate::telemetry::metrics::Exposition;

/// Time for the metadata's leader to be heard after a start, before it is taken for gone.
const LEADER_HEARD_WITHIN: Duration = Duration::from_secs(3);
/// A leader must have said within this time, if it has led for as long, that a majority follows it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// How good this node's metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetadataState {
    /// It has none yet.
    Absent,
    /// No leader was heard since the start, which may be about to happen.
    Unheard,
    /// It lacks so many entries of what its leader had; `None`: its leader hasn't told yet.
    CatchingUp(Option<u64>),
    /// It is as new as its leader's.
    Current,
    /// There is no leader: it is as new as it can be.
    NoMajority,
}

impl MetadataState {
    /// Why keys can't be served with it yet.
    fn missing(self) -> Option<String> {
        match self {
            Self::Absent => Some("the cluster's metadata has not come yet".to_owned()),
            Self::Unheard => Some("the metadata's leader has not been heard yet".to_owned()),
            Self::CatchingUp(Some(entries)) => {
                Some(format!("it lacks {entries} entries that its leader has"))
            }
            Self::CatchingUp(None) => Some("its leader is new".to_owned()),
            Self::Current | Self::NoMajority => None,
        }
    }

    /// Whether nothing newer was to be had.
    fn is_as_good_as_can_be(self) -> bool {
        matches!(self, Self::Current | Self::NoMajority)
    }
}

impl fmt::Display for MetadataState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "none yet",
            Self::Unheard | Self::CatchingUp(_) => "catching up",
            Self::Current => "ok",
            Self::NoMajority => "no majority",
        })
    }
}

impl Groups {
    /// What answers requests, here or by way of this node, and what doesn't.
    pub(super) fn readiness(&self) -> Readiness {
        let metadata = self.metadata_state();
        let mut parts = vec![
            Part::new(GroupId::META.to_string(), self.metadata_missing(metadata)),
            Part::new("region", self.region_missing()),
        ];
        parts.extend(self.shard_parts());
        Readiness {
            parts,
            remarks: vec![("metadata", metadata.to_string())],
        }
    }

    /// Whether requests for keys are answered, whatever the metadata's leader is doing.
    pub(super) fn serves_keys(&self) -> bool {
        self.is_open() && self.shard_parts().iter().all(Part::is_ready)
    }

    /// Whether this node knows of the buckets, and its region serves users.
    pub(super) fn is_open(&self) -> bool {
        self.is_bootstrapped() && self.region_missing().is_none()
    }

    fn is_bootstrapped(&self) -> bool {
        !self.catalog.header().cluster_id.is_empty()
    }

    pub(super) fn metadata_state(&self) -> MetadataState {
        if !self.is_bootstrapped() {
            MetadataState::Absent
        } else if self.has_leader(&self.meta) {
            match self.meta.behind() {
                _ if self.meta.may_read() => MetadataState::Current,
                Some(0) => MetadataState::Current,
                behind => MetadataState::CatchingUp(behind),
            }
        } else if self.meta.leaderless_for().is_none()
            && self.started.elapsed() < LEADER_HEARD_WITHIN
        {
            MetadataState::Unheard
        } else {
            MetadataState::NoMajority
        }
    }

    /// Why keys can't be served with the metadata yet. A node that has once served them goes on:
    /// one whose region was cut off must not stop because it hears of the others again.
    fn metadata_missing(&self, metadata: MetadataState) -> Option<String> {
        if metadata.is_as_good_as_can_be() {
            self.had_metadata.store(true, Ordering::Relaxed);
        }
        let had_it = self.had_metadata.load(Ordering::Relaxed);
        metadata.missing().filter(|_| !had_it)
    }

    fn region_missing(&self) -> Option<String> {
        let topology = self.catalog.topology();
        match topology.region(self.identity.region_number) {
            None => Some("the metadata doesn't name this node's region yet".to_owned()),
            Some(region) if region.joining => {
                Some("it takes over what the other regions have".to_owned())
            }
            Some(_) => None,
        }
    }

    fn shard_parts(&self) -> Vec<Part> {
        let shards = self.shards.iter();
        let part = |shard: &std::sync::Arc<ShardHandle>| {
            Part::new(shard.group().id().to_string(), self.shard_missing(shard))
        };
        shards.map(part).collect()
    }

    /// Why requests for a shard aren't answered.
    fn shard_missing(&self, shard: &ShardHandle) -> Option<String> {
        if shard.serves() {
            return None;
        }
        if !shard.is_hosted() {
            let leader = shard.leader_elsewhere();
            return leader
                .is_none()
                .then(|| "no node says that it leads it".to_owned());
        }
        let group = shard.group();
        let me = self.identity.node_id;
        let leader = *group.leader().borrow();
        match leader {
            Some(leader) if leader == me => match shard.unfit() {
                Some(why) => Some(why.to_owned()),
                None => (!group.has_leader())
                    .then(|| "this node leads it, and no majority of its members answers".into()),
            },
            _ if self.has_leader(group) => None,
            Some(leader) => Some(format!(
                "its leader {} is not heard",
                self.node_name(leader)
            )),
            None => Some("it has no leader: too few of its members are heard".to_owned()),
        }
    }

    /// Whether a group has a leader now: this node, or one that it hears, and that has a majority
    /// behind it.
    pub(super) fn has_leader<M: Machine>(&self, group: &Group<M>) -> bool {
        let leader = *group.leader().borrow();
        let others = leader.filter(|leader| *leader != self.identity.node_id);
        let confirmed = others.is_none_or(|leader| {
            group.leader_settled_for() < CONFIRMED_WITHIN
                || self.vitals.led_within(leader, group.id(), CONFIRMED_WITHIN)
        });
        group.has_leader() && confirmed
    }

    /// A node as people know it: its host and port, and its region.
    pub(super) fn node_name(&self, node: NodeId) -> String {
        let topology = self.catalog.topology();
        match topology.node(node) {
            Some(known) => {
                let region = topology.region_name(known.region).unwrap_or("?");
                format!("{} ({region})", known.rpc)
            }
            None => self.peers.name_of(node),
        }
    }
}

pub(super) fn write_metrics(groups: &Groups, text: &mut Exposition) {
    let help = "1 if this node can answer for all shards of its region.";
    let ready = f64::from(u8::from(groups.readiness().is_ready()));
    text.gauge("cloudkv_ready", help, &[], ready);
    let mut write = |group: GroupId, has_leader: bool| {
        let help = "1 if this node leads the group or hears its leader, and a majority follows.";
        let group = group.to_string();
        let labels = [("group", group.as_str())];
        let has_leader = f64::from(u8::from(has_leader));
        text.gauge("cloudkv_raft_has_leader", help, &labels, has_leader);
    };
    write(GroupId::META, groups.has_leader(&groups.meta));
    for shard in groups.shards.iter() {
        write(shard.group().id(), groups.shard_missing(shard).is_none());
    }
}
