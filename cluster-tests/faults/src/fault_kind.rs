//! Kinds of faults, and the number of times that each happened.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL, and a restart.
    Kill,
    /// SIGKILL to all nodes at once, and a restart.
    KillAll,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// SIGTERM, and a restart.
    Restart,
    /// A fault of the network, which may be combined with another fault.
    Network(NetworkFault),
    /// A node's wall clock jumps by ten minutes, and the node restarts.
    ClockJump,
    /// A node loses its disk and joins again as another one.
    Wipe,
    /// As `Wipe`, over a slow connection and under writes to the shards; the snapshot's sender or
    /// the node itself may die or stall midway.
    SlowSnapshot,
    /// A node is decommissioned, and recommissioned before its replicas have moved away, or joins
    /// anew once it was removed.
    MembershipChange,
    /// A running node's disk corrupts data. Only in one region, and only where asked for.
    Damage,
    /// SIGKILL to all nodes of a region at once, and a restart.
    RegionKill,
    /// SIGKILL to all nodes of an isolated region, just after it got a bucket, and a restart.
    RegionCutKill,
    /// A bucket is deleted while an isolated region writes to it.
    DropBucket,
}

/// A fault of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkFault {
    /// All traffic from and to one node is cut.
    Isolate,
    /// One direction between two nodes is cut.
    OneWay,
    /// Two nodes don't reach each other, and both reach the others.
    Bridge,
    /// Connections of a node are reset.
    Refuse,
    /// All traffic of a node is delayed.
    Delay,
    /// All traffic of a node stalls now and then, as with lost packets.
    Loss,
    /// Two regions don't reach each other, and both reach the others.
    RegionCut,
    /// One direction between two regions is cut.
    RegionOneWay,
    /// All traffic from and to one region is cut.
    RegionOff,
    /// Connections between two regions are reset.
    RegionReset,
    /// Traffic between two regions is delayed beyond its usual latency.
    RegionDelay,
    /// More traffic than usual is lost between two regions.
    RegionLoss,
}

impl FaultKind {
    /// Kinds for a single region.
    pub const SINGLE_REGION: [Self; 14] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::Restart,
        Self::Network(NetworkFault::Isolate),
        Self::Network(NetworkFault::OneWay),
        Self::Network(NetworkFault::Bridge),
        Self::Network(NetworkFault::Refuse),
        Self::Network(NetworkFault::Delay),
        Self::Network(NetworkFault::Loss),
        Self::ClockJump,
        Self::Wipe,
        Self::SlowSnapshot,
        Self::MembershipChange,
    ];

    /// Returns the kinds for a single region of so many nodes. Two nodes can't tell which of their
    /// clocks is wrong, and the one that isn't a voter holds no complete copy.
    pub fn for_region_size(nodes: usize) -> Vec<Self> {
        let needs_three =
            |kind: &Self| matches!(kind, Self::ClockJump | Self::Wipe | Self::SlowSnapshot);
        let kinds = Self::SINGLE_REGION.into_iter();
        kinds
            .filter(|kind| nodes > 2 || !needs_three(kind))
            .collect()
    }

    /// Kinds for several regions of one node each.
    pub const MULTI_REGION: [Self; 13] = [
        Self::Kill,
        Self::KillAll,
        Self::Pause,
        Self::Restart,
        Self::ClockJump,
        Self::Network(NetworkFault::RegionCut),
        Self::Network(NetworkFault::RegionOneWay),
        Self::Network(NetworkFault::RegionOff),
        Self::Network(NetworkFault::RegionReset),
        Self::Network(NetworkFault::RegionDelay),
        Self::Network(NetworkFault::RegionLoss),
        Self::RegionCutKill,
        Self::DropBucket,
    ];

    /// Additional kinds for several regions of several nodes each.
    pub const LARGE_REGIONS: [Self; 4] = [
        Self::RegionKill,
        Self::Network(NetworkFault::Isolate),
        Self::Network(NetworkFault::OneWay),
        Self::Network(NetworkFault::Bridge),
    ];

    /// Returns all kinds.
    fn all() -> impl Iterator<Item = Self> {
        let of_regions = Self::MULTI_REGION
            .into_iter()
            .chain([Self::RegionKill, Self::Damage]);
        let others = of_regions.filter(|kind| !Self::SINGLE_REGION.contains(kind));
        Self::SINGLE_REGION.into_iter().chain(others)
    }

    /// Returns the name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Network(fault) => fault.name(),
            Self::ClockJump => "clock-jump",
            Self::Wipe => "wipe",
            Self::SlowSnapshot => "slow-snapshot",
            Self::MembershipChange => "members",
            Self::Damage => "damage",
            Self::RegionKill => "region-kill",
            Self::RegionCutKill => "region-cut-kill",
            Self::DropBucket => "drop-bucket",
        }
    }

    /// Returns the fault of the network, if it is one.
    pub fn network_fault(self) -> Option<NetworkFault> {
        match self {
            Self::Network(fault) => Some(fault),
            Self::Kill
            | Self::KillAll
            | Self::Pause
            | Self::Restart
            | Self::ClockJump
            | Self::Wipe
            | Self::SlowSnapshot
            | Self::MembershipChange
            | Self::Damage
            | Self::RegionKill
            | Self::RegionCutKill
            | Self::DropBucket => None,
        }
    }

    /// Returns the relative probability. Kinds after which a region needs long to recover are less
    /// likely.
    pub fn weight(self) -> u64 {
        match self {
            Self::Wipe | Self::SlowSnapshot | Self::ClockJump | Self::Damage => 2,
            Self::KillAll | Self::RegionKill => 3,
            Self::MembershipChange => 8,
            Self::Kill | Self::Pause => 10,
            Self::Restart | Self::RegionCutKill | Self::DropBucket => 6,
            Self::Network(fault) => fault.weight(),
        }
    }
}

impl NetworkFault {
    fn name(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::OneWay => "one-way",
            Self::Bridge => "bridge",
            Self::Refuse => "refuse",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::RegionCut => "region-cut",
            Self::RegionOneWay => "region-one-way",
            Self::RegionOff => "region-off",
            Self::RegionReset => "region-reset",
            Self::RegionDelay => "region-delay",
            Self::RegionLoss => "region-loss",
        }
    }

    /// Returns the relative probability.
    pub fn weight(self) -> u64 {
        match self {
            Self::Isolate
            | Self::OneWay
            | Self::Bridge
            | Self::RegionCut
            | Self::RegionOneWay
            | Self::RegionOff => 10,
            Self::Refuse
            | Self::Delay
            | Self::Loss
            | Self::RegionReset
            | Self::RegionDelay
            | Self::RegionLoss => 6,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Self::all().find(|kind| kind.name() == text);
        let names = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        kind.ok_or_else(|| format!("expected one of {}", names()))
    }
}

/// Number of times that faults happened.
#[derive(Clone, Debug, Default)]
pub struct FaultCounts {
    kinds: BTreeMap<FaultKind, u64>,
    /// Number of faults that hit the leader of the metadata group.
    pub meta_leaders: u64,
    /// Number of faults that hit the leader of a shard that was aimed at.
    pub shard_leaders: u64,
}

impl FaultCounts {
    /// Counts a fault.
    pub fn add(&mut self, kind: FaultKind) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// Returns those of `wanted` that haven't happened yet.
    pub fn missing(&self, wanted: &[FaultKind]) -> Vec<FaultKind> {
        let missing = wanted.iter().filter(|kind| !self.kinds.contains_key(kind));
        missing.copied().collect()
    }

    /// Returns the number of all faults.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.kinds {
            write!(f, "{count} {kind}, ")?;
        }
        write!(
            f,
            "of these {} at the leader of the metadata and {} at that of a shard",
            self.meta_leaders, self.shard_leaders
        )
    }
}
