//! Memory that strangers make the process hold: a budget of bytes, of which one address gets half.
//!
//! Small amounts needn't be counted here: their number is bounded by that of connections. So the
//! lock is taken for what is large, or by steps, and not once for each request.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

use crate::server::addresses::network_of;

/// A budget of bytes for the whole process.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    /// Bytes by address; those of addresses that hold none aren't here.
    by_address: HashMap<IpAddr, usize>,
}

impl Memory {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> usize {
        self.taken.lock().bytes
    }

    /// Takes bytes for an address, or for somebody who isn't bounded as an address is (`None`). False
    /// if they aren't there: then nothing is taken.
    pub fn try_take(&self, address: Option<IpAddr>, bytes: usize) -> bool {
        let taken = &mut *self.taken.lock();
        let address = address.map(network_of);
        let fits = self.fits(taken, address, bytes);
        if fits {
            taken.add(address, bytes);
        }
        fits
    }

    /// Whether [`Self::try_take`] would succeed now.
    pub(crate) fn has_room(&self, address: Option<IpAddr>, bytes: usize) -> bool {
        self.fits(&self.taken.lock(), address.map(network_of), bytes)
    }

    fn fits(&self, taken: &Taken, address: Option<IpAddr>, bytes: usize) -> bool {
        let all = taken.bytes.saturating_add(bytes);
        let of_address = address.and_then(|address| taken.by_address.get(&address));
        let its = of_address.copied().unwrap_or(0).saturating_add(bytes);
        all <= self.limit && (address.is_none() || its <= self.limit / 2)
    }

    /// Takes bytes that can't be refused, whether they are there or not.
    pub fn take(&self, address: Option<IpAddr>, bytes: usize) {
        self.taken.lock().add(address.map(network_of), bytes);
    }

    /// Releases bytes that were taken for an address.
    pub fn release(&self, address: Option<IpAddr>, bytes: usize) {
        let taken = &mut *self.taken.lock();
        taken.bytes = taken.bytes.saturating_sub(bytes);
        if let Some(address) = address.map(network_of)
            && let Some(its) = taken.by_address.get_mut(&address)
        {
            *its = its.saturating_sub(bytes);
            if *its == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

impl Taken {
    fn add(&mut self, address: Option<IpAddr>, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(address) = address.filter(|_| bytes > 0) {
            let its = self.by_address.entry(address).or_default();
            *its = its.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_address_gets_half_and_all_get_no_more_than_all() {
        let memory = Memory::new(100);
        let [one, two, three] = ["1.1.1.1", "1.1.1.2", "1.1.1.3"].map(address);
        assert!(memory.has_room(one, 50) && !memory.has_room(one, 51));
        assert!(memory.try_take(one, 50) && !memory.try_take(one, 1));
        assert!(memory.try_take(two, 40) && !memory.try_take(two, 11));
        assert!(!memory.try_take(three, 11) && memory.try_take(three, 10));
        assert!(!memory.try_take(None, 1), "all is taken");
        memory.release(one, 50);
        assert!(memory.try_take(None, 50), "who isn't bounded gets the rest");
        assert_eq!(memory.taken(), 100);
    }

    #[test]
    fn networks_of_ipv6_are_one_address() {
        let memory = Memory::new(100);
        assert!(memory.try_take(address("2001:db8::1"), 50));
        assert!(!memory.try_take(address("2001:db8::2"), 1));
        assert!(memory.try_take(address("2001:db8:0:1::1"), 50));
    }

    #[test]
    fn nothing_is_kept_of_who_holds_nothing() {
        let memory = Memory::new(100);
        memory.take(address("1.1.1.1"), 200);
        assert!(!memory.try_take(address("1.1.1.2"), 1));
        memory.release(address("1.1.1.1"), 200);
        assert!(memory.try_take(address("1.1.1.2"), 0));
        assert_eq!(memory.taken(), 0);
        assert!(memory.taken.lock().by_address.is_empty());
    }
}
