//! Who is connected from where, so that no address takes the places of others.
//!
//! IPv6 addresses count by their first 64 bits: who has one usually has all of them. What is known of
//! an address is looked up once for each connection, and goes with the last of them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::server::conn::pulse::Pulse;

const SHARDS: usize = 16;
/// Connections that one search among all of them finds: the search takes a while, and is made when
/// they are used up.
const CANDIDATES: usize = 128;
/// Pause between two searches among all connections.
const SEARCH_INTERVAL: Duration = Duration::from_millis(20);

/// The address that stands for all that belong together.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// All addresses that are connected, or have a request under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    shards: [Mutex<HashMap<IpAddr, Weak<Address>>>; SHARDS],
    hasher: RandomState,
    idle: Mutex<Candidates>,
}

/// Connections that were idle for the longest time when all were searched, the longest last.
#[derive(Debug, Default)]
struct Candidates {
    found: Vec<(u64, Arc<Address>, u32)>,
    searched: Option<Instant>,
}

/// What one address has.
#[derive(Debug)]
pub(crate) struct Address {
    network: IpAddr,
    connections: Mutex<HashMap<u32, Arc<Pulse>>>,
    requests: AtomicUsize,
    hosts_router: AtomicBool,
    known: Arc<Known>,
}

/// A connection's place among those of its address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    address: Arc<Address>,
    number: u32,
}

/// A request of an address that is under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Address>);

impl Addresses {
    /// What is known of an address.
    pub(crate) fn of(&self, address: IpAddr) -> Arc<Address> {
        let network = network_of(address);
        let mut shard = self.0.shard(network).lock();
        if let Some(known) = shard.get(&network).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(Address {
            network,
            connections: Mutex::default(),
            requests: AtomicUsize::new(0),
            hosts_router: AtomicBool::new(false),
            known: Arc::clone(&self.0),
        });
        shard.insert(network, Arc::downgrade(&fresh));
        fresh
    }

    /// Ends the connection that has been idle for the longest time. False if none is idle.
    pub(crate) fn evict_longest_idle(&self) -> bool {
        let candidates = &mut *self.0.idle.lock();
        loop {
            while let Some((_, address, number)) = candidates.found.pop() {
                if address.evict(number) {
                    return true;
                }
            }
            let now = Instant::now();
            let searched = candidates.searched.replace(now);
            if searched.is_some_and(|at| now.saturating_duration_since(at) < SEARCH_INTERVAL) {
                candidates.searched = searched;
                return false;
            }
            candidates.found = self.0.longest_idle();
            if candidates.found.is_empty() {
                return false;
            }
        }
    }
}

impl Known {
    fn shard(&self, network: IpAddr) -> &Mutex<HashMap<IpAddr, Weak<Address>>> {
        let shard = self.hasher.hash_one(network) as usize % SHARDS;
        &self.shards[shard]
    }

    /// Some of the connections that are idle, the one that has been for the longest time last.
    fn longest_idle(&self) -> Vec<(u64, Arc<Address>, u32)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let addresses: Vec<_> = shard.lock().values().filter_map(Weak::upgrade).collect();
            for address in addresses {
                let connections = address.connections.lock();
                let idle = connections
                    .iter()
                    .filter_map(|(number, pulse)| Some((pulse.idle_since()?, *number)));
                found.extend(idle.map(|(since, number)| (since, Arc::clone(&address), number)));
            }
        }
        if found.len() > CANDIDATES {
            found.select_nth_unstable_by_key(CANDIDATES, |(since, ..)| *since);
            found.truncate(CANDIDATES);
        }
        found.sort_unstable_by_key(|(since, ..)| std::cmp::Reverse(*since));
        found
    }
}

impl Address {
    /// Takes a place for a connection, of `most`. An address that has no more loses the connection that
    /// has been idle for the longest time; if none is, there is no place.
    pub(crate) fn admit(
        self: &Arc<Self>,
        number: u32,
        pulse: &Arc<Pulse>,
        most: usize,
    ) -> Option<Place> {
        let mut connections = self.connections.lock();
        if connections.len() >= most {
            let idle = connections
                .iter()
                .filter_map(|(number, pulse)| Some((pulse.idle_since()?, *number)));
            let (_, longest) = idle.min()?;
            if let Some(pulse) = connections.remove(&longest) {
                pulse.evict();
            }
        }
        connections.insert(number, Arc::clone(pulse));
        Some(Place {
            address: Arc::clone(self),
            number,
        })
    }

    /// Notes that a router of the cluster connects from there.
    pub(crate) fn set_hosts_router(&self) {
        self.hosts_router.store(true, Ordering::Relaxed);
    }

    /// Whether a router of the cluster connects from there: many connections at once are its own then,
    /// though each counts for the address until it has shown what it is.
    pub(crate) fn hosts_router(&self) -> bool {
        self.hosts_router.load(Ordering::Relaxed)
    }

    /// Whether it is at its limit.
    pub(crate) fn is_full(&self, most: usize) -> bool {
        self.connections.lock().len() >= most
    }

    /// Ends a connection if it is still idle.
    fn evict(&self, number: u32) -> bool {
        let mut connections = self.connections.lock();
        let idle = connections
            .get(&number)
            .filter(|it| it.idle_since().is_some());
        if let Some(pulse) = idle {
            pulse.evict();
            connections.remove(&number);
            return true;
        }
        false
    }

    /// Counts a request, if there are fewer than `most`.
    pub(crate) fn begin(self: &Arc<Self>, most: usize) -> Option<UnderWay> {
        // Counted first, so that two at once can't both take the last place.
        let under_way = UnderWay(Arc::clone(self));
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(under_way)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut shard = self.known.shard(self.network).lock();
        // Another one may have taken its place already.
        if let Some(known) = shard.get(&self.network)
            && known.strong_count() == 0
        {
            shard.remove(&self.network);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.address.connections.lock().remove(&self.number);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
