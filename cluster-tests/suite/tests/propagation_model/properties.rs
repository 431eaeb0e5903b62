//! Properties that must hold in every state.

use stateright::Property;

use crate::model::is_in_deleted_bucket;
use crate::record::{BUCKET_KEY, Kind, MAX_KEYS, MAX_REGIONS, Rank};
use crate::region::{Mode, Peer, Region};
use crate::world::{Change, Setup, World};

/// Once everything is delivered, all regions have the newest version of every key.
pub(crate) const CONVERGENCE: &str = "regions converge to the newest version";
/// No region shows a value that is older than one it had before.
pub(crate) const NO_STALE_VALUES: &str = "no overwritten or deleted value reappears";
/// A region has all changes up to the watermark that their origin has announced to it.
pub(crate) const WATERMARKS: &str = "watermarks are true";
/// The guard rejects only duplicates.
pub(crate) const GUARD: &str = "no new change is below a watermark";
/// Once the model is idle, no cursor lags, and no tombstone or index entry is left.
pub(crate) const CLEANED_UP: &str = "tombstones and index entries are removed";
/// A region that has dropped a bucket shows nothing of it.
pub(crate) const DROPPED_BUCKETS: &str = "nothing is written into a dropped bucket";
/// The bounds are wide enough for a run that terminates.
pub(crate) const TERMINATES: &str = "some run terminates";

pub(crate) fn all(setup: &Setup) -> Vec<Property<Setup>> {
    let mut properties = vec![
        Property::always(CONVERGENCE, |_, world: &World| {
            !is_quiescent(world) || has_converged(world)
        }),
        Property::always(NO_STALE_VALUES, |_, world: &World| {
            world.regions.iter().all(shows_nothing_old)
        }),
        Property::always(CLEANED_UP, |setup: &Setup, world: &World| {
            !setup.is_idle(world) || is_cleaned_up(world)
        }),
        Property::sometimes(TERMINATES, |setup: &Setup, world: &World| {
            world.remaining.operations == 0
                && world.remaining.region_losses == 0
                && setup.is_idle(world)
        }),
    ];
    if setup.checks_watermarks {
        properties.push(Property::always(WATERMARKS, |_, world: &World| {
            world.members().all(|region| watermarks_hold(world, region))
        }));
        properties.push(Property::always(GUARD, |_, world: &World| !world.guard_hit));
    }
    if setup.deletes_bucket {
        properties.push(Property::always(DROPPED_BUCKETS, |_, world: &World| {
            let dropped = |region: &&Region| region.dropped;
            let mut regions = world.regions.iter().filter(dropped);
            regions.all(|region| region.records[BUCKET_KEY].is_none())
        }));
    }
    properties
}

fn live_peers(world: &World, region: &Region) -> impl Iterator<Item = (usize, Peer)> {
    let serves: [bool; MAX_REGIONS] = std::array::from_fn(|id| world.regions[id].is_serving());
    let peers = region.peers.into_iter().enumerate();
    peers.filter_map(move |(id, peer)| Some((id, peer?)).filter(|_| serves[id]))
}

/// Returns whether everything is delivered and expired, and no region joins or is being removed.
fn is_quiescent(world: &World) -> bool {
    if !world.in_flight.is_empty()
        || world.join.is_under_way()
        || world.pending_drops.contains(&true)
    {
        return false;
    }
    world.members().all(|region| {
        let expires = |kind: Kind| kind == Kind::Expiring;
        let mut records = region.records.iter().flatten();
        let lost = |peer: usize| world.regions[peer].mode == Mode::Lost;
        let removing = (0..MAX_REGIONS).any(|id| region.peers[id].is_some() && lost(id));
        !removing
            && !records.any(|record| expires(record.kind))
            && live_peers(world, region).all(|(id, peer)| peer.cursor == world.regions[id].last_seq)
    })
}

fn has_converged(world: &World) -> bool {
    (0..MAX_KEYS).all(|key| {
        let had = world
            .members()
            .filter_map(|region| region.highest_seen[key]);
        let expected = if world.has_lost_region {
            had.max()
        } else {
            world.newest[key]
        };
        let is_deleted = is_in_deleted_bucket(world, key);
        world.members().all(|region| {
            let actual = region.records[key].map(|record| record.rank());
            match expected.filter(|_| !is_deleted) {
                None => actual.is_none(),
                Some(Rank {
                    tombstone: true, ..
                }) => actual.is_none() || actual == expected,
                Some(_) => actual == expected,
            }
        })
    })
}

fn shows_nothing_old(region: &Region) -> bool {
    (0..MAX_KEYS).all(|key| match region.records[key] {
        Some(record) if !record.is_tombstone() => Some(record.rank()) >= region.highest_seen[key],
        _ => true,
    })
}

fn watermarks_hold(world: &World, region: &Region) -> bool {
    live_peers(world, region).all(|(id, peer)| {
        let theirs = |change: &&Change| {
            usize::from(change.region) == id
                && change.incarnation == peer.incarnation
                && change.seq > peer.first_cursor
                && change.time <= peer.watermark
        };
        world.changes.iter().filter(theirs).all(|change| {
            let key = usize::from(change.key);
            let had = region.highest_seen[key].map(|rank| (rank.version.time, rank.version.region));
            had >= Some((change.time, change.region)) || is_in_deleted_bucket(world, key)
        })
    })
}

fn is_cleaned_up(world: &World) -> bool {
    is_quiescent(world)
        && world.members().all(|region| {
            let has_tombstone = region.records.iter().flatten().any(|r| r.is_tombstone());
            let has_entry = region.entries.iter().any(Option::is_some);
            !has_tombstone && !has_entry
        })
}
