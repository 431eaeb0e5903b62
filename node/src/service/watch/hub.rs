//! The rings of one watched bucket: one for each filter that its watchers have.
//!
//! An event is in the rings of all filters that match its key. Its bytes are counted once, and its
//! place in each ring.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::BufferedBytes;
use super::end::WatchEnd;
use super::event::WatchEvent;
use super::ring::EventRing;
use super::token::TokenWriter;
use crate::types::{Access, KeyFilter};

/// Rings that have news, and whose streams are woken once no lock is held.
pub(super) type ChangedRings = Vec<Arc<EventRing>>;

/// Rings by key or prefix.
type Rings = HashMap<Bytes, Arc<EventRing>>;

/// Rings of a bucket.
#[derive(Debug)]
pub(super) struct Hub {
    /// Access mode of the bucket when the watchers were authorized.
    pub access: Access,
    /// Writer of the bucket's tokens.
    pub tokens: TokenWriter,
    /// Bytes of the events in the rings.
    pub buffered: Arc<BufferedBytes>,
    keys: Rings,
    prefixes: Rings,
}

impl Hub {
    pub(super) fn new(access: Access, tokens: TokenWriter, buffered: BufferedBytes) -> Self {
        Self {
            access,
            tokens,
            buffered: Arc::new(buffered),
            keys: HashMap::new(),
            prefixes: HashMap::new(),
        }
    }

    /// Returns the ring of a filter, which is created if there is none.
    pub(super) fn ring(&mut self, filter: &KeyFilter) -> Arc<EventRing> {
        let (rings, name) = self.rings_of(filter);
        if let Some(ring) = rings.get(name) {
            return ring.clone();
        }
        let ring = Arc::new(EventRing::new());
        rings.insert(name.clone(), ring.clone());
        ring
    }

    /// Removes a ring that no stream uses. Returns whether the hub has none left.
    pub(super) fn remove_ring(&mut self, filter: &KeyFilter, ring: &Arc<EventRing>) -> bool {
        let (rings, name) = self.rings_of(filter);
        if rings.get(name).is_some_and(|own| Arc::ptr_eq(own, ring)) {
            rings.remove(name);
        }
        self.is_empty()
    }

    /// Returns whether there is no ring.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty()
    }

    fn rings_of<'a>(&mut self, filter: &'a KeyFilter) -> (&mut Rings, &'a Bytes) {
        match filter {
            KeyFilter::Key(key) => (&mut self.keys, key),
            KeyFilter::Prefix(prefix) => (&mut self.prefixes, prefix),
        }
    }

    fn rings(&self) -> impl Iterator<Item = &Arc<EventRing>> {
        self.keys.values().chain(self.prefixes.values())
    }

    fn rings_matching<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Arc<EventRing>> {
        let prefixes = self.prefixes.iter();
        let prefixes = prefixes.filter(move |(prefix, _)| key.starts_with(prefix));
        self.keys
            .get(key)
            .into_iter()
            .chain(prefixes.map(|(_, ring)| ring))
    }

    /// Returns whether anybody watches a key.
    pub(super) fn is_watched(&self, key: &[u8]) -> bool {
        self.rings_matching(key).next().is_some()
    }

    /// Appends an event to the rings of those who watch its key.
    pub(super) fn push(&self, event: &Arc<WatchEvent>, changed: &mut ChangedRings) {
        for ring in self.rings_matching(&event.change.key) {
            if ring.push(event) {
                changed.push(ring.clone());
            }
        }
    }

    /// Lets the streams that are furthest behind in the largest ring lose their place. Returns
    /// whether there was one.
    pub(super) fn evict(&self, changed: &mut ChangedRings) -> bool {
        let Some(largest) = self.rings().max_by_key(|ring| ring.bytes()) else {
            return false;
        };
        let evicted = largest.evict();
        if evicted == Some(true) {
            changed.push(largest.clone());
        }
        evicted.is_some()
    }

    /// Lets all streams lose their place that may have missed a change, as `is_concerned` says of
    /// their filters' keys; those of prefixes may all have.
    pub(super) fn lose_all(
        &self,
        is_concerned: impl Fn(&[u8]) -> bool,
        changed: &mut ChangedRings,
    ) {
        let keys = self.keys.iter().filter(|(key, _)| is_concerned(key));
        for ring in keys.map(|(_, ring)| ring).chain(self.prefixes.values()) {
            if ring.lose_all() {
                changed.push(ring.clone());
            }
        }
    }

    /// Ends and removes the streams of all keys for which `is_concerned` holds, and of prefixes.
    pub(super) fn finish(
        &mut self,
        end: WatchEnd,
        is_concerned: impl Fn(&[u8]) -> bool,
        changed: &mut ChangedRings,
    ) {
        let keys = self.keys.extract_if(|key, _| is_concerned(key));
        let rings = keys.map(|(_, ring)| ring);
        for ring in rings.chain(self.prefixes.drain().map(|(_, ring)| ring)) {
            if ring.finish(end) {
                changed.push(ring);
            }
        }
    }
}
