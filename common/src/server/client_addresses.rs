//! Connections and requests by client address, so that no address uses up the limits of others.
//!
//! IPv6 addresses count by their first 64 bits: a client that has one usually has all of them. The
//! record of an address is looked up once for each connection, and dropped with the last of them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::server::conn::state::ConnectionState;

const SHARD_COUNT: usize = 16;
/// Maximum number of connections that one search among all of them returns: the search is slow, and
/// is repeated when they are used up.
const MAX_CANDIDATES: usize = 128;
/// Minimum interval between two searches among all connections.
const SEARCH_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the address that stands for all that count as one: an IPv6 address's first 64 bits.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// All addresses that have a connection or a request under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientAddresses(Arc<AddressTable>);

#[derive(Debug, Default)]
struct AddressTable {
    shards: [Mutex<HashMap<IpAddr, Weak<ClientAddress>>>; SHARD_COUNT],
    hasher: RandomState,
    candidates: Mutex<IdleCandidates>,
}

/// Longest idle connections at the last search, the longest idle one last.
#[derive(Debug, Default)]
struct IdleCandidates {
    connections: Vec<(u64, Arc<ClientAddress>, u32)>,
    searched_at: Option<Instant>,
}

/// Connections and requests of one address.
#[derive(Debug)]
pub(crate) struct ClientAddress {
    network: IpAddr,
    connections: Mutex<HashMap<u32, Arc<ConnectionState>>>,
    requests: AtomicUsize,
    has_router: AtomicBool,
    table: Arc<AddressTable>,
}

/// Connection's slot among those of its address, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    address: Arc<ClientAddress>,
    number: u32,
}

/// Request of an address that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct RequestPermit(Arc<ClientAddress>);

impl ClientAddresses {
    /// Returns the record of an address, which is created if there is none.
    pub(crate) fn get_or_insert(&self, address: IpAddr) -> Arc<ClientAddress> {
        let network = network_of(address);
        let mut shard = self.0.shard(network).lock();
        if let Some(existing) = shard.get(&network).and_then(Weak::upgrade) {
            return existing;
        }
        let fresh = Arc::new(ClientAddress {
            network,
            connections: Mutex::default(),
            requests: AtomicUsize::new(0),
            has_router: AtomicBool::new(false),
            table: Arc::clone(&self.0),
        });
        shard.insert(network, Arc::downgrade(&fresh));
        fresh
    }

    /// Evicts the connection that has been idle for the longest time. False if none is idle.
    pub(crate) fn evict_longest_idle(&self) -> bool {
        let candidates = &mut *self.0.candidates.lock();
        loop {
            while let Some((_, address, number)) = candidates.connections.pop() {
                if address.evict(number) {
                    return true;
                }
            }
            let now = Instant::now();
            let searched = candidates.searched_at.replace(now);
            if searched.is_some_and(|at| now.saturating_duration_since(at) < SEARCH_INTERVAL) {
                candidates.searched_at = searched;
                return false;
            }
            candidates.connections = self.0.longest_idle();
            if candidates.connections.is_empty() {
                return false;
            }
        }
    }
}

impl AddressTable {
    fn shard(&self, network: IpAddr) -> &Mutex<HashMap<IpAddr, Weak<ClientAddress>>> {
        let shard = self.hasher.hash_one(network) as usize % SHARD_COUNT;
        &self.shards[shard]
    }

    /// Returns the longest idle connections, the longest idle one last.
    fn longest_idle(&self) -> Vec<(u64, Arc<ClientAddress>, u32)> {
        let mut candidates = Vec::new();
        for shard in &self.shards {
            let addresses: Vec<_> = shard.lock().values().filter_map(Weak::upgrade).collect();
            for address in addresses {
                let connections = address.connections.lock();
                let idle = connections
                    .iter()
                    .filter_map(|(number, state)| Some((state.idle_since()?, *number)));
                candidates
                    .extend(idle.map(|(since, number)| (since, Arc::clone(&address), number)));
            }
        }
        if candidates.len() > MAX_CANDIDATES {
            candidates.select_nth_unstable_by_key(MAX_CANDIDATES, |(since, ..)| *since);
            candidates.truncate(MAX_CANDIDATES);
        }
        candidates.sort_unstable_by_key(|(since, ..)| std::cmp::Reverse(*since));
        candidates
    }
}

impl ClientAddress {
    /// Takes one of `max` slots for a connection. If none is free, the address's longest idle
    /// connection is evicted; if none is idle, there is no slot.
    pub(crate) fn admit(
        self: &Arc<Self>,
        number: u32,
        state: &Arc<ConnectionState>,
        max: usize,
    ) -> Option<ConnectionSlot> {
        let mut connections = self.connections.lock();
        if connections.len() >= max {
            let idle = connections
                .iter()
                .filter_map(|(number, state)| Some((state.idle_since()?, *number)));
            let (_, longest) = idle.min()?;
            if let Some(state) = connections.remove(&longest) {
                state.evict();
            }
        }
        connections.insert(number, Arc::clone(state));
        Some(ConnectionSlot {
            address: Arc::clone(self),
            number,
        })
    }

    /// Records that a router of the cluster connects from this address.
    pub(crate) fn set_has_router(&self) {
        self.has_router.store(true, Ordering::Relaxed);
    }

    /// Returns whether a router of the cluster connects from this address: many connections at once
    /// may then be the router's, though each counts for the address until it has identified itself.
    pub(crate) fn has_router(&self) -> bool {
        self.has_router.load(Ordering::Relaxed)
    }

    /// Returns whether it has `max` connections.
    pub(crate) fn is_full(&self, max: usize) -> bool {
        self.connections.lock().len() >= max
    }

    /// Evicts a connection if it is still idle.
    fn evict(&self, number: u32) -> bool {
        let mut connections = self.connections.lock();
        let idle = connections
            .get(&number)
            .filter(|it| it.idle_since().is_some());
        if let Some(state) = idle {
            state.evict();
            connections.remove(&number);
            return true;
        }
        false
    }

    /// Counts a request, if fewer than `max` are under way.
    pub(crate) fn begin_request(self: &Arc<Self>, max: usize) -> Option<RequestPermit> {
        // Counted first, so that two at once can't both take the last permit.
        let permit = RequestPermit(Arc::clone(self));
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        (before < max).then_some(permit)
    }
}

impl Drop for ClientAddress {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.network).lock();
        // A new record may have replaced it already.
        if let Some(record) = shard.get(&self.network)
            && record.strong_count() == 0
        {
            shard.remove(&self.network);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.address.connections.lock().remove(&self.number);
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "client_addresses_tests.rs"]
mod tests;
