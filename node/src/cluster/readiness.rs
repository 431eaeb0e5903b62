//! Readiness: whether this node can answer for all shards of its region now, by itself or through
//! another node, and why not.
//!
//! A leader counts while there is contact with it, and while it reports that a majority follows it:
//! one that is only remembered doesn't count. An ordinary election doesn't make a node unready,
//! since requests are queued meanwhile: contact with the old leader counts for two election
//! timeouts.
//!
//! The metadata needs no leader for that: a partitioned region goes on with what it has. A node
//! that has started, and has contact with the metadata's leader, waits until it has caught up with
//! it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloudkv_common::admin::{Component, Readiness};
use cloudkv_common::telemetry::metrics::Exposition;

use super::LocalGroups;
use super::availability::is_majority_alive;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

/// Time after a start for contact with the metadata's leader, before it counts as lost.
const LEADER_CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// State of this node's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetadataState {
    /// There is none yet.
    Absent,
    /// There was no contact with a leader since the start, but it may still come.
    NoContact,
    /// Number of entries behind the leader; `None` if the leader hasn't reported it yet.
    CatchingUp(Option<u64>),
    /// As new as the leader's.
    Current,
    /// There is no leader: as new as possible.
    NoMajority,
}

impl MetadataState {
    /// Returns the reason for which keys can't be served yet, if there is one.
    fn blocking_reason(self) -> Option<String> {
        match self {
            Self::Absent => Some("the cluster's metadata has not arrived yet".to_owned()),
            Self::NoContact => {
                Some("there is no contact with the metadata's leader yet".to_owned())
            }
            Self::CatchingUp(Some(entries)) => {
                Some(format!("it is {entries} entries behind its leader"))
            }
            Self::CatchingUp(None) => Some("its leader is new".to_owned()),
            Self::Current | Self::NoMajority => None,
        }
    }

    /// Returns whether nothing newer is available.
    fn is_newest_available(self) -> bool {
        matches!(self, Self::Current | Self::NoMajority)
    }
}

impl fmt::Display for MetadataState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "none yet",
            Self::NoContact | Self::CatchingUp(_) => "catching up",
            Self::Current => "ok",
            Self::NoMajority => "no majority",
        })
    }
}

/// Judges the readiness of this node from the state of its groups.
pub struct ReadinessProbe {
    groups: Arc<LocalGroups>,
    started_at: Instant,
    /// Set once the metadata has been as new as possible since the start.
    was_metadata_current: AtomicBool,
    /// Set once users are served.
    is_public_port_open: AtomicBool,
}

impl ReadinessProbe {
    /// Creates the probe of groups that have just been started.
    pub(crate) fn new(groups: Arc<LocalGroups>) -> Self {
        Self {
            groups,
            started_at: Instant::now(),
            was_metadata_current: AtomicBool::new(false),
            is_public_port_open: AtomicBool::new(false),
        }
    }

    /// Records that users are served from now on.
    pub(crate) fn set_public_port_open(&self) {
        self.is_public_port_open.store(true, Ordering::Relaxed);
    }

    /// Time since the groups were started.
    pub(crate) fn uptime(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// Readiness of the components that answer requests, here or through other nodes.
    pub(crate) fn check(&self) -> Readiness {
        let metadata = self.metadata_state();
        let mut parts = vec![
            Component::new(GroupId::META.to_string(), self.metadata_blocker(metadata)),
            Component::new("region", self.region_blocker()),
        ];
        parts.extend(self.shard_components());
        if !self.is_public_port_open.load(Ordering::Relaxed) {
            let reason = "the public port isn't open yet".to_owned();
            parts.push(Component::new("http", Some(reason)));
        }
        Readiness {
            components: parts,
            notes: vec![("metadata", metadata.to_string())],
        }
    }

    /// Components for which [`ReadinessProbe::serves_keys`] waits, with the reasons.
    pub(crate) fn key_blockers(&self) -> Vec<Component> {
        let absent = MetadataState::Absent.blocking_reason();
        let metadata = absent.filter(|_| !self.is_bootstrapped());
        let mut parts = vec![
            Component::new(GroupId::META.to_string(), metadata),
            Component::new("region", self.region_blocker()),
        ];
        parts.extend(self.shard_components());
        parts.retain(|part| !part.is_ready());
        parts
    }

    /// Returns whether requests for keys are answered, whatever the state of the metadata's leader.
    pub(crate) fn serves_keys(&self) -> bool {
        self.is_region_open() && self.shard_components().iter().all(Component::is_ready)
    }

    /// Returns whether this node has metadata, and its region serves users.
    pub(crate) fn is_region_open(&self) -> bool {
        self.is_bootstrapped() && self.region_blocker().is_none()
    }

    fn is_bootstrapped(&self) -> bool {
        !self.groups.catalog.header().cluster_id.is_empty()
    }

    /// State of this node's metadata.
    pub(crate) fn metadata_state(&self) -> MetadataState {
        let meta = &self.groups.meta;
        if !self.is_bootstrapped() {
            MetadataState::Absent
        } else if self.groups.has_leader(meta) {
            match meta.catch_up_lag() {
                _ if meta.may_read() => MetadataState::Current,
                Some(0) => MetadataState::Current,
                behind => MetadataState::CatchingUp(behind),
            }
        } else if meta.leaderless_for().is_none() && self.uptime() < LEADER_CONTACT_TIMEOUT {
            MetadataState::NoContact
        } else {
            MetadataState::NoMajority
        }
    }

    /// Returns the reason for which keys can't be served with the metadata yet. A node that has
    /// once served them goes on: one of a partitioned region must not stop because the partition
    /// heals.
    fn metadata_blocker(&self, metadata: MetadataState) -> Option<String> {
        if metadata.is_newest_available() {
            self.was_metadata_current.store(true, Ordering::Relaxed);
        }
        let was_current = self.was_metadata_current.load(Ordering::Relaxed);
        metadata.blocking_reason().filter(|_| !was_current)
    }

    fn region_blocker(&self) -> Option<String> {
        let topology = self.groups.catalog.topology();
        match topology.region(self.groups.identity.region_number) {
            None => Some("the metadata doesn't name this node's region yet".to_owned()),
            Some(region) if region.is_joining => {
                Some("it is still being seeded from another region".to_owned())
            }
            Some(_) => None,
        }
    }

    fn shard_components(&self) -> Vec<Component> {
        let shards = self.groups.shards.iter();
        let part = |shard: &Arc<ShardHandle>| {
            Component::new(shard.group().id().to_string(), self.shard_blocker(shard))
        };
        shards.map(part).collect()
    }

    /// Returns the reason for which requests for a shard aren't answered, if there is one.
    fn shard_blocker(&self, shard: &ShardHandle) -> Option<String> {
        if shard.is_serving() {
            return None;
        }
        if !shard.is_hosted() {
            let leader = shard.remote_leader();
            return leader
                .is_none()
                .then(|| "no node reports to lead it".to_owned());
        }
        let group = shard.group();
        let me = self.groups.identity.node_id;
        let leader = *group.leader().borrow();
        match leader {
            Some(leader) if leader == me => match shard.unserving_reason() {
                Some(reason) => Some(reason.to_owned()),
                None => (!group.has_leader())
                    .then(|| "this node leads it, but no majority of its members answers".into()),
            },
            _ if self.groups.has_leader(group) => None,
            Some(leader) => Some(format!(
                "its leader {} is unreachable",
                self.groups.node_name(leader)
            )),
            None if is_majority_alive(&self.groups, group.id()) => {
                Some("it has no leader yet".to_owned())
            }
            None => Some("it has no leader: too few of its members are reachable".to_owned()),
        }
    }

    /// Writes the metrics of readiness.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let help = "1 if this node can answer for all shards of its region.";
        let ready = f64::from(u8::from(self.check().is_ready()));
        text.gauge("cloudkv_ready", help, &[], ready);
        let mut write = |group: GroupId, has_leader: bool| {
            let help = "1 if this node leads the group, or reaches its leader, with a majority.";
            let group = group.to_string();
            let labels = [("group", group.as_str())];
            let has_leader = f64::from(u8::from(has_leader));
            text.gauge("cloudkv_raft_has_leader", help, &labels, has_leader);
        };
        write(GroupId::META, self.groups.has_leader(&self.groups.meta));
        for shard in &self.groups.shards {
            write(shard.group().id(), self.shard_blocker(shard).is_none());
        }
    }
}
