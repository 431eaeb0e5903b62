//! All regions and what is between them, and the bounds within which the checker looks.

use std::ops::Range;

use crate::joining::Join;
use crate::model::Action;
use crate::network::Message;
use crate::record::{KEYS, Kind, REGIONS, Rank};
use crate::region::{Mode, Peer, Region};
use crate::rules::Rules;

/// How much of each kind may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Users' requests: PUT, DELETE, deletion of the bucket.
    pub operations: u8,
    /// A sender begins again at the acknowledged position while more is in flight: its leader
    /// was replaced or the stream broke.
    pub resets: u8,
    /// A batch is delivered and stays in flight.
    pub duplicates: u8,
    /// A batch or an acknowledgement is lost.
    pub losses: u8,
    /// An acknowledgement or a heartbeat takes its time, while others arrive at once; or a batch
    /// is sent to a newcomer before it can take it.
    pub late: u8,
    /// A walk breaks and starts again.
    pub walk_breaks: u8,
    /// A region is lost.
    pub regions_lost: u8,
}

/// A change of a user (for the properties alone).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub region: u8,
    pub incarnation: u8,
    pub seq: u8,
    pub key: u8,
    pub time: u8,
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub regions: [Region; REGIONS],
    /// A set, in the order in which its messages were sent.
    pub net: Vec<Message>,
    pub join: Join,
    /// The regions that the deletion of the bucket has yet to reach.
    pub drop_left: [bool; REGIONS],
    pub bucket_deleted: bool,
    pub left: Budget,
    /// For the properties: the newest that users have written.
    pub newest: [Option<Rank>; KEYS],
    /// For the properties: what users have written.
    pub changes: Vec<Change>,
    /// For the properties: the guard met something that was not a duplicate.
    pub guard_hit: bool,
    /// For the properties: a region was lost.
    pub lost: bool,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub region: usize,
    pub key: usize,
    pub kind: Kind,
}

/// All writes of some kinds to some keys in some regions.
pub fn writes(regions: Range<usize>, keys: Range<usize>, kinds: &[Kind]) -> Vec<Write> {
    let places = regions.flat_map(|region| keys.clone().map(move |key| (region, key)));
    let writes = places.flat_map(|(region, key)| {
        let write = move |&kind| Write { region, key, kind };
        kinds.iter().map(write)
    });
    writes.collect()
}

/// What is modelled, and the bounds.
#[derive(Clone, Debug)]
pub struct Setup {
    pub rules: Rules,
    /// Regions in the beginning.
    pub regions: usize,
    pub keys: usize,
    pub writes: Vec<Write>,
    /// What clocks may show. A version is at least that, and at least the last version + 1.
    pub clocks: Vec<u8>,
    /// Batches in flight between two regions.
    pub in_flight: usize,
    /// A batch may also end at its first change.
    pub split: bool,
    /// The bucket of key 0 may be deleted.
    pub deletes_bucket: bool,
    /// The region that joins.
    pub joins: Option<usize>,
    /// The region that may be lost.
    pub loses: Option<usize>,
    /// Check the properties of watermarks too.
    pub checks_watermarks: bool,
    pub budget: Budget,
    /// Steps that are taken before the checker begins to look, where it would look too long.
    pub begins_with: Vec<Action>,
}

impl Setup {
    /// A cluster of some regions without faults.
    pub fn new(regions: usize, keys: usize, operations: u8) -> Self {
        Self {
            rules: Rules::all(),
            regions,
            keys,
            writes: writes(0..REGIONS, 0..keys, &[Kind::Value, Kind::Tombstone]),
            clocks: vec![0, 3],
            in_flight: 2,
            split: true,
            deletes_bucket: false,
            joins: None,
            loses: None,
            checks_watermarks: true,
            budget: Budget {
                operations,
                ..Budget::default()
            },
            begins_with: Vec::new(),
        }
    }

    pub fn first_world(&self) -> World {
        let mut regions: [Region; REGIONS] = std::array::from_fn(Region::new);
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
            net: Vec::new(),
            join: Join::default(),
            drop_left: [false; REGIONS],
            bucket_deleted: false,
            left: self.budget,
            newest: [None; KEYS],
            changes: Vec::new(),
            guard_hit: false,
            lost: false,
        }
    }
}

impl World {
    /// The regions that are in the cluster and alive.
    pub fn members(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(|region| region.serves())
    }

    /// Adds a message to what is in flight.
    pub fn send(&mut self, message: Message) {
        if !self.net.contains(&message) {
            self.net.push(message);
        }
    }
}
