//! The state of all regions and messages, and the bounds of the search.

use std::ops::Range;

use crate::joining::Join;
use crate::model::Action;
use crate::network::Message;
use crate::record::{Kind, MAX_KEYS, MAX_REGIONS, Rank};
use crate::region::{Mode, Peer, Region};
use crate::rules::Rules;

/// Number of events of each kind that may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Users' requests: PUT, DELETE, deletion of the bucket.
    pub operations: u8,
    /// A sender begins again at the acknowledged position while more is in flight: its leader
    /// was replaced or the stream broke.
    pub resets: u8,
    /// A batch is delivered and stays in flight.
    pub duplicates: u8,
    /// A batch or an acknowledgement is lost.
    pub losses: u8,
    /// An acknowledgement or a heartbeat is late, while others arrive at once; or a batch is sent
    /// to a newcomer before it can accept it.
    pub delays: u8,
    /// A bulk copy breaks and starts again.
    pub copy_aborts: u8,
    /// A region is lost.
    pub region_losses: u8,
}

/// A user's change (for the properties only).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    pub region: u8,
    pub incarnation: u8,
    pub seq: u8,
    pub key: u8,
    pub time: u8,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub regions: [Region; MAX_REGIONS],
    /// The set of messages in flight, in the order in which they were sent.
    pub in_flight: Vec<Message>,
    pub join: Join,
    /// The regions that the deletion of the bucket has yet to reach.
    pub pending_drops: [bool; MAX_REGIONS],
    pub bucket_deleted: bool,
    pub remaining: Budget,
    /// For the properties: the newest write of each key.
    pub newest: [Option<Rank>; MAX_KEYS],
    /// For the properties: all changes of users.
    pub changes: Vec<Change>,
    /// For the properties: the guard has rejected a change that was not a duplicate.
    pub guard_hit: bool,
    /// For the properties: a region was lost.
    pub has_lost_region: bool,
}

/// A possible write of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Write {
    pub region: usize,
    pub key: usize,
    pub kind: Kind,
}

/// Returns all writes of these kinds to these keys in these regions.
pub(crate) fn writes(regions: Range<usize>, keys: Range<usize>, kinds: &[Kind]) -> Vec<Write> {
    let targets = regions.flat_map(|region| keys.clone().map(move |key| (region, key)));
    let writes = targets.flat_map(|(region, key)| {
        let write = move |&kind| Write { region, key, kind };
        kinds.iter().map(write)
    });
    writes.collect()
}

/// Scope and bounds of a search.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub rules: Rules,
    /// Initial number of regions.
    pub regions: usize,
    pub keys: usize,
    pub writes: Vec<Write>,
    /// Possible times of clocks. A version is at least that, and at least the last version + 1.
    pub clocks: Vec<u8>,
    /// Maximum number of batches in flight between two regions.
    pub max_in_flight: usize,
    /// A batch may also end at its first change.
    pub splits_batches: bool,
    /// The bucket of key 0 may be deleted.
    pub deletes_bucket: bool,
    /// The region that joins.
    pub newcomer: Option<usize>,
    /// The region that may be lost.
    pub lost_region: Option<usize>,
    /// Checks the properties of watermarks, too.
    pub checks_watermarks: bool,
    pub budget: Budget,
    /// Actions before the search begins, where it would take too long otherwise.
    pub initial_actions: Vec<Action>,
}

impl Setup {
    /// Creates a setup of a cluster without faults.
    pub(crate) fn new(regions: usize, keys: usize, operations: u8) -> Self {
        Self {
            rules: Rules::all(),
            regions,
            keys,
            writes: writes(0..MAX_REGIONS, 0..keys, &[Kind::Value, Kind::Tombstone]),
            clocks: vec![0, 3],
            max_in_flight: 2,
            splits_batches: true,
            deletes_bucket: false,
            newcomer: None,
            lost_region: None,
            checks_watermarks: true,
            budget: Budget {
                operations,
                ..Budget::default()
            },
            initial_actions: Vec::new(),
        }
    }

    pub(crate) fn initial_world(&self) -> World {
        let mut regions: [Region; MAX_REGIONS] = std::array::from_fn(Region::new);
        for id in 0..self.regions {
            let region = &mut regions[id];
            region.mode = Mode::Serving;
            region.incarnation = 1;
            for peer in (0..self.regions).filter(|peer| *peer != id) {
                region.peers[peer] = Some(Peer::new(1, 0, 0));
            }
        }
        World {
            regions,
            in_flight: Vec::new(),
            join: Join::default(),
            pending_drops: [false; MAX_REGIONS],
            bucket_deleted: false,
            remaining: self.budget,
            newest: [None; MAX_KEYS],
            changes: Vec::new(),
            guard_hit: false,
            has_lost_region: false,
        }
    }
}

impl World {
    /// Returns the regions that are in the cluster and alive.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(|region| region.is_serving())
    }

    /// Adds a message to those in flight.
    pub(crate) fn send(&mut self, message: Message) {
        if !self.in_flight.contains(&message) {
            self.in_flight.push(message);
        }
    }
}
