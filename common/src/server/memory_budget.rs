//! Budget of the memory that untrusted clients make the process hold; one address gets at most
//! half.
//!
//! Small amounts needn't be counted here: their number is bounded by that of connections. So the
//! lock is taken for large amounts, or in steps, and not once for each request.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

use crate::server::client_addresses::network_of;

/// Budget of bytes for the whole process.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    usage: Mutex<BudgetUsage>,
}

#[derive(Debug, Default)]
struct BudgetUsage {
    bytes: usize,
    /// Bytes by address, without addresses that hold none.
    by_address: HashMap<IpAddr, usize>,
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            usage: Mutex::default(),
        }
    }

    /// Returns the bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.usage.lock().bytes
    }

    /// Acquires bytes for an address, or for a client that isn't limited by address (`None`). False
    /// if they don't fit: then none are acquired.
    pub fn try_acquire(&self, address: Option<IpAddr>, bytes: usize) -> bool {
        let usage = &mut *self.usage.lock();
        let address = address.map(network_of);
        let fits = self.fits(usage, address, bytes);
        if fits {
            usage.add(address, bytes);
        }
        fits
    }

    /// Returns whether [`Self::try_acquire`] would succeed now.
    pub fn has_capacity(&self, address: Option<IpAddr>, bytes: usize) -> bool {
        self.fits(&self.usage.lock(), address.map(network_of), bytes)
    }

    fn fits(&self, usage: &BudgetUsage, address: Option<IpAddr>, bytes: usize) -> bool {
        let total = usage.bytes.saturating_add(bytes);
        let of_address = address.and_then(|address| usage.by_address.get(&address));
        let of_address = of_address.copied().unwrap_or(0).saturating_add(bytes);
        total <= self.limit && (address.is_none() || of_address <= self.limit / 2)
    }

    /// Acquires bytes that can't be refused, even beyond the limit.
    pub fn acquire(&self, address: Option<IpAddr>, bytes: usize) {
        self.usage.lock().add(address.map(network_of), bytes);
    }

    /// Releases bytes that were acquired for an address.
    pub fn release(&self, address: Option<IpAddr>, bytes: usize) {
        let usage = &mut *self.usage.lock();
        usage.bytes = usage.bytes.saturating_sub(bytes);
        if let Some(address) = address.map(network_of)
            && let Some(of_address) = usage.by_address.get_mut(&address)
        {
            *of_address = of_address.saturating_sub(bytes);
            if *of_address == 0 {
                usage.by_address.remove(&address);
            }
        }
    }
}

impl BudgetUsage {
    fn add(&mut self, address: Option<IpAddr>, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(address) = address.filter(|_| bytes > 0) {
            let of_address = self.by_address.entry(address).or_default();
            *of_address = of_address.saturating_add(bytes);
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
    fn one_address_gets_half_and_all_get_no_more_than_the_limit() {
        let memory = MemoryBudget::new(100);
        let [one, two, three] = ["1.1.1.1", "1.1.1.2", "1.1.1.3"].map(address);
        assert!(memory.has_capacity(one, 50) && !memory.has_capacity(one, 51));
        assert!(memory.try_acquire(one, 50) && !memory.try_acquire(one, 1));
        assert!(memory.try_acquire(two, 40) && !memory.try_acquire(two, 11));
        assert!(!memory.try_acquire(three, 11) && memory.try_acquire(three, 10));
        assert!(!memory.try_acquire(None, 1), "all is in use");
        memory.release(one, 50);
        assert!(
            memory.try_acquire(None, 50),
            "unlimited clients get the rest"
        );
        assert_eq!(memory.used_bytes(), 100);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let memory = MemoryBudget::new(100);
        assert!(memory.try_acquire(address("2001:db8::1"), 50));
        assert!(!memory.try_acquire(address("2001:db8::2"), 1));
        assert!(memory.try_acquire(address("2001:db8:0:1::1"), 50));
    }

    #[test]
    fn addresses_without_bytes_are_forgotten() {
        let memory = MemoryBudget::new(100);
        memory.acquire(address("1.1.1.1"), 200);
        assert!(!memory.try_acquire(address("1.1.1.2"), 1));
        memory.release(address("1.1.1.1"), 200);
        assert!(memory.try_acquire(address("1.1.1.2"), 0));
        assert_eq!(memory.used_bytes(), 0);
        assert!(memory.usage.lock().by_address.is_empty());
    }
}
