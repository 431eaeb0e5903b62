//! Limits the rate at which one address may create buckets, and accounts with them.
//!
//! Each address has an allowance for an hour's creations, which is replenished evenly (the generic
//! cell rate algorithm: all that is kept of an address is the time at which its allowance will be
//! full again). Invariant: a tracked address creates at most twice as many within any hour as the
//! setting says, and the memory is bounded, however many addresses there are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use cloudkv_common::server::forwarded::client_address;
use cloudkv_common::server::{RequestOrigin, network_of};
use http::HeaderMap;
use ipnet::IpNet;
use parking_lot::Mutex;

const HOUR: Duration = Duration::from_secs(3600);
/// Maximum number of tracked addresses. All others share the allowance of one.
const MAX_TRACKED_ADDRESSES: usize = 1 << 16;
/// Minimum interval between scans for addresses whose allowance is full.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

/// Limits that the operator sets on creations.
#[derive(Clone, Debug, Default)]
pub(crate) struct CreationSettings {
    /// Number of buckets that an address may create within an hour; 0: unlimited.
    pub per_hour: u32,
    /// Proxies that are trusted to name the client of a request.
    pub trusted_proxies: Vec<IpNet>,
}

/// Rate limiter of creations, by address.
#[derive(Debug)]
pub(crate) struct CreationLimiter {
    settings: CreationSettings,
    max_addresses: usize,
    state: Mutex<RateLimitState>,
}

/// Time at which each address's allowance will be full again. Addresses with a full allowance may
/// be absent.
#[derive(Debug, Default)]
struct RateLimitState {
    full_at: HashMap<IpAddr, Instant>,
    pruned_at: Option<Instant>,
}

/// Address that a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSource {
    address: IpAddr,
    is_router: bool,
}

impl RequestSource {
    /// Returns the source of a request.
    pub(crate) fn from_origin(origin: &RequestOrigin) -> Self {
        Self {
            address: origin.peer.ip(),
            is_router: origin.is_router,
        }
    }

    /// Returns the address of the client, as a trusted proxy or a router names it.
    pub(crate) fn client_address(self, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        client_address(self.address, self.is_router, headers, trusted)
    }
}

/// Permit for one creation, with the address that it was counted for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CreationPermit(Option<IpAddr>);

/// Error of an address that has used up its allowance.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CreationLimitExceeded {
    /// Number of buckets that an address may create within an hour.
    pub per_hour: u32,
    /// Time until the address may create the next bucket.
    pub retry_after: Duration,
}

impl CreationLimiter {
    pub(crate) fn new(settings: CreationSettings) -> Self {
        Self {
            settings,
            max_addresses: MAX_TRACKED_ADDRESSES,
            state: Mutex::default(),
        }
    }

    /// Takes a permit for one creation by the client of a request.
    pub(crate) fn try_acquire(
        &self,
        source: RequestSource,
        headers: &HeaderMap,
    ) -> Result<CreationPermit, CreationLimitExceeded> {
        if self.settings.per_hour == 0 {
            return Ok(CreationPermit(None));
        }
        let client = source.client_address(headers, &self.settings.trusted_proxies);
        let address = self.try_acquire_at(Instant::now(), network_of(client))?;
        Ok(CreationPermit(Some(address)))
    }

    /// Releases a permit with which nothing was created.
    pub(crate) fn release(&self, CreationPermit(address): CreationPermit) {
        let state = &mut *self.state.lock();
        if let Some(full_at) = address.and_then(|address| state.full_at.get_mut(&address)) {
            *full_at = full_at
                .checked_sub(HOUR / self.settings.per_hour)
                .unwrap_or(*full_at);
        }
    }

    fn try_acquire_at(
        &self,
        now: Instant,
        client: IpAddr,
    ) -> Result<IpAddr, CreationLimitExceeded> {
        let state = &mut *self.state.lock();
        let address = state.tracked_address(client, now, self.max_addresses);
        let full_at = state.full_at.get(&address).copied();
        let full_at = full_at.map_or(now, |at| at.max(now)) + HOUR / self.settings.per_hour;
        let used = full_at - now;
        if used > HOUR {
            return Err(CreationLimitExceeded {
                per_hour: self.settings.per_hour,
                retry_after: used - HOUR,
            });
        }
        state.full_at.insert(address, full_at);
        Ok(address)
    }
}

impl RateLimitState {
    /// Returns the address that a client is counted for: its own, or that of all others.
    fn tracked_address(&mut self, client: IpAddr, now: Instant, limit: usize) -> IpAddr {
        const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if self.full_at.contains_key(&client) {
            return client;
        }
        let is_prune_due = self.pruned_at.is_none_or(|at| now >= at + PRUNE_INTERVAL);
        if self.full_at.len() >= limit && is_prune_due {
            self.full_at.retain(|_, at| *at > now);
            self.pruned_at = Some(now);
        }
        if self.full_at.len() < limit {
            client
        } else {
            OTHERS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_hour: u32, addresses: usize) -> CreationLimiter {
        let settings = CreationSettings {
            per_hour,
            trusted_proxies: vec!["10.0.0.1/32".parse().unwrap()],
        };
        let mut limiter = CreationLimiter::new(settings);
        limiter.max_addresses = addresses;
        limiter
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn request_source(address: &str, is_router: bool) -> RequestSource {
        RequestSource {
            address: address.parse().unwrap(),
            is_router,
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_allowance_is_used_up_and_replenished_evenly() {
        let (limiter, start) = (limiter(6, 8), Instant::now());
        let client = address(1);
        for _ in 0..6 {
            assert_eq!(limiter.try_acquire_at(start, client), Ok(client));
        }
        let exceeded = |retry_after| {
            Err(CreationLimitExceeded {
                per_hour: 6,
                retry_after,
            })
        };
        assert_eq!(limiter.try_acquire_at(start, client), exceeded(10 * MINUTE));
        assert!(
            limiter.try_acquire_at(start, address(2)).is_ok(),
            "another one"
        );
        let after = |minutes| start + minutes * MINUTE;
        assert_eq!(limiter.try_acquire_at(after(9), client), exceeded(MINUTE));
        assert!(
            limiter.try_acquire_at(after(10), client).is_ok(),
            "refusals are not counted"
        );
        assert_eq!(
            limiter.try_acquire_at(after(10), client),
            exceeded(10 * MINUTE)
        );
        for _ in 0..6 {
            assert_eq!(limiter.try_acquire_at(after(200), client), Ok(client));
        }
        assert_eq!(
            limiter.try_acquire_at(after(200), client),
            exceeded(10 * MINUTE)
        );
    }

    #[test]
    fn released_permits_are_not_counted() {
        let (limiter, start) = (limiter(2, 8), Instant::now());
        let acquire = || limiter.try_acquire_at(start, address(1));
        for _ in 0..5 {
            let address = acquire().unwrap();
            limiter.release(CreationPermit(Some(address)));
        }
        assert!(acquire().is_ok() && acquire().is_ok() && acquire().is_err());
        limiter.release(CreationPermit(None));
        assert!(acquire().is_err());
    }

    #[test]
    fn tracked_addresses_are_bounded_and_all_clients_are_limited() {
        let (limiter, start) = (limiter(2, 3), Instant::now());
        let acquire = |number, now| limiter.try_acquire_at(now, address(number)).is_ok();
        for number in 1..=3 {
            assert!(acquire(number, start));
        }
        // All others share the allowance of one.
        assert!(acquire(4, start) && acquire(5, start));
        assert!(!acquire(6, start) && !acquire(7, start));
        // A tracked address has its own allowance.
        assert!(acquire(1, start) && !acquire(1, start));
        assert_eq!(limiter.state.lock().full_at.len(), 4);
        // An hour later new addresses can be tracked again.
        let later = start + HOUR;
        for number in 6..=8 {
            assert!(acquire(number, later));
        }
        assert_eq!(limiter.state.lock().full_at.len(), 3);
    }

    #[test]
    fn clients_that_trusted_proxies_name_are_counted() {
        let limiter = limiter(1, 8);
        let acquire = |source: &str, client: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", http::HeaderValue::from_static(client));
            limiter
                .try_acquire(request_source(source, false), &headers)
                .is_ok()
        };
        assert!(acquire("10.0.0.1", "1.1.1.1") && acquire("10.0.0.1", "1.1.1.2"));
        assert!(!acquire("10.0.0.1", "1.1.1.1"));
        // The header of an untrusted source is ignored.
        assert!(acquire("10.0.0.2", "1.1.1.3") && !acquire("10.0.0.2", "1.1.1.4"));
        assert!(acquire("10.0.0.1", "1.1.1.3"));
    }

    #[test]
    fn clients_that_routers_name_are_counted_without_a_setting() {
        let limiter = limiter(1, 8);
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", http::HeaderValue::from_static("1.1.1.9"));
        let acquire = |is_router| {
            limiter
                .try_acquire(request_source("9.9.9.9", is_router), &headers)
                .is_ok()
        };
        assert!(acquire(true) && !acquire(true));
        assert!(
            acquire(false),
            "the header of an untrusted source is ignored"
        );
    }

    #[test]
    fn without_a_limit_no_address_is_tracked() {
        let limiter = limiter(0, 8);
        let source = request_source("1.1.1.1", false);
        for _ in 0..100 {
            assert_eq!(
                limiter.try_acquire(source, &HeaderMap::new()),
                Ok(CreationPermit(None))
            );
        }
        assert!(limiter.state.lock().full_at.is_empty());
    }
}
