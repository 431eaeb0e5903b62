//! How many buckets one address may create, and accounts with them.
//!
//! Each address has room for an hour's creations, which comes back evenly (the generic cell rate
//! algorithm: all that is kept of an address is when its room will be whole again). Invariant: an address
//! that is told apart creates at most twice as many within any hour as the setting says, and however many
//! addresses ask, what is kept is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use cloudkv_common::network::Network;
use cloudkv_common::server::forwarded::client_of;
use cloudkv_common::server::{Origin, network_of};
use http::HeaderMap;
use parking_lot::Mutex;

const HOUR: Duration = Duration::from_secs(3600);
/// Addresses that are told apart; when there are more, the others share the room of one.
const ADDRESSES: usize = 1 << 16;
/// Pause between looks for addresses that needn't be kept any more.
const LOOK: Duration = Duration::from_secs(1);

/// What the operator allows.
#[derive(Clone, Debug, Default)]
pub struct CreationSettings {
    /// Buckets that an address may create within an hour; 0: as many as it likes.
    pub per_hour: u32,
    /// Whose word on whom a request comes from is believed.
    pub trusted: Vec<Network>,
}

/// What addresses have created lately.
#[derive(Debug)]
pub(crate) struct Creations {
    settings: CreationSettings,
    addresses: usize,
    rooms: Mutex<Rooms>,
}

/// When the room of each address will be whole again. Addresses whose room is whole needn't be here.
#[derive(Debug, Default)]
struct Rooms {
    whole_at: HashMap<IpAddr, Instant>,
    looked: Option<Instant>,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    is_router: bool,
}

impl Peer {
    /// Whom a request came from.
    pub(crate) fn of(origin: &Origin) -> Self {
        Self {
            address: origin.peer.ip(),
            is_router: origin.is_router,
        }
    }

    /// The client for whom it came.
    pub(crate) fn client(self, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
        client_of(self.address, self.is_router, headers, trusted)
    }
}

/// One that was counted, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted(Option<IpAddr>);

/// An address has created as many as it may, for so long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// How many it may create within an hour.
    pub per_hour: u32,
    /// Until it may create the next one.
    pub wait: Duration,
}

impl Creations {
    pub(crate) fn new(settings: CreationSettings) -> Self {
        Self {
            settings,
            addresses: ADDRESSES,
            rooms: Mutex::default(),
        }
    }

    /// Counts one by whoever sent a request.
    pub(crate) fn count(&self, peer: Peer, headers: &HeaderMap) -> Result<Counted, NoRoom> {
        if self.settings.per_hour == 0 {
            return Ok(Counted(None));
        }
        let client = peer.client(headers, &self.settings.trusted);
        let counted = self.count_at(Instant::now(), network_of(client))?;
        Ok(Counted(Some(counted)))
    }

    /// Nothing was created after all.
    pub(crate) fn give_back(&self, Counted(counted): Counted) {
        let rooms = &mut *self.rooms.lock();
        if let Some(whole_at) = counted.and_then(|place| rooms.whole_at.get_mut(&place)) {
            *whole_at = whole_at
                .checked_sub(HOUR / self.settings.per_hour)
                .unwrap_or(*whole_at);
        }
    }

    fn count_at(&self, now: Instant, client: IpAddr) -> Result<IpAddr, NoRoom> {
        let rooms = &mut *self.rooms.lock();
        let client = rooms.place_of(client, now, self.addresses);
        let whole_at = rooms.whole_at.get(&client).copied();
        let whole_at = whole_at.map_or(now, |at| at.max(now)) + HOUR / self.settings.per_hour;
        let taken = whole_at - now;
        if taken > HOUR {
            return Err(NoRoom {
                per_hour: self.settings.per_hour,
                wait: taken - HOUR,
            });
        }
        rooms.whole_at.insert(client, whole_at);
        Ok(client)
    }
}

impl Rooms {
    /// Where an address is counted.
    fn place_of(&mut self, client: IpAddr, now: Instant, most: usize) -> IpAddr {
        const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if self.whole_at.contains_key(&client) {
            return client;
        }
        let rested = self.looked.is_none_or(|at| now >= at + LOOK);
        if self.whole_at.len() >= most && rested {
            self.whole_at.retain(|_, at| *at > now);
            self.looked = Some(now);
        }
        if self.whole_at.len() < most {
            client
        } else {
            OTHERS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creations(per_hour: u32, addresses: usize) -> Creations {
        let settings = CreationSettings {
            per_hour,
            trusted: vec!["10.0.0.1".parse().unwrap()],
        };
        let mut creations = Creations::new(settings);
        creations.addresses = addresses;
        creations
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn peer(address: &str, is_router: bool) -> Peer {
        Peer {
            address: address.parse().unwrap(),
            is_router,
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn room_is_used_up_and_comes_back_evenly() {
        let (creations, start) = (creations(6, 8), Instant::now());
        let one = address(1);
        for _ in 0..6 {
            assert_eq!(creations.count_at(start, one), Ok(one));
        }
        let full = |wait| {
            let per_hour = 6;
            Err(NoRoom { per_hour, wait })
        };
        assert_eq!(creations.count_at(start, one), full(10 * MINUTE));
        assert!(creations.count_at(start, address(2)).is_ok(), "another one");
        let after = |minutes| start + minutes * MINUTE;
        assert_eq!(creations.count_at(after(9), one), full(MINUTE));
        assert!(
            creations.count_at(after(10), one).is_ok(),
            "refusals cost nothing"
        );
        assert_eq!(creations.count_at(after(10), one), full(10 * MINUTE));
        for _ in 0..6 {
            assert_eq!(creations.count_at(after(200), one), Ok(one));
        }
        assert_eq!(creations.count_at(after(200), one), full(10 * MINUTE));
    }

    #[test]
    fn what_came_to_nothing_is_given_back() {
        let (creations, start) = (creations(2, 8), Instant::now());
        let count = || creations.count_at(start, address(1));
        for _ in 0..5 {
            let counted = count().unwrap();
            creations.give_back(Counted(Some(counted)));
        }
        assert!(count().is_ok() && count().is_ok() && count().is_err());
        creations.give_back(Counted(None));
        assert!(count().is_err());
    }

    #[test]
    fn what_is_kept_is_bounded_and_nobody_goes_free() {
        let (creations, start) = (creations(2, 3), Instant::now());
        let count = |number, now| creations.count_at(now, address(number)).is_ok();
        for number in 1..=3 {
            assert!(count(number, start));
        }
        // All others share the room of one.
        assert!(count(4, start) && count(5, start));
        assert!(!count(6, start) && !count(7, start));
        // Who was there before has its own.
        assert!(count(1, start) && !count(1, start));
        assert_eq!(creations.rooms.lock().whole_at.len(), 4);
        // An hour later there is room for new ones again.
        let later = start + HOUR;
        for number in 6..=8 {
            assert!(count(number, later));
        }
        assert_eq!(creations.rooms.lock().whole_at.len(), 3);
    }

    #[test]
    fn those_that_proxies_name_are_counted() {
        let creations = creations(1, 8);
        let ask = |peer: &str, client: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", http::HeaderValue::from_static(client));
            creations.count(self::peer(peer, false), &headers).is_ok()
        };
        assert!(ask("10.0.0.1", "1.1.1.1") && ask("10.0.0.1", "1.1.1.2"));
        assert!(!ask("10.0.0.1", "1.1.1.1"));
        // A stranger is itself, whatever it says.
        assert!(ask("10.0.0.2", "1.1.1.3") && !ask("10.0.0.2", "1.1.1.4"));
        assert!(ask("10.0.0.1", "1.1.1.3"));
    }

    #[test]
    fn those_that_routers_name_are_counted_without_a_setting() {
        let creations = creations(1, 8);
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", http::HeaderValue::from_static("1.1.1.9"));
        let ask = |is_router| {
            creations
                .count(peer("9.9.9.9", is_router), &headers)
                .is_ok()
        };
        assert!(ask(true) && !ask(true));
        assert!(ask(false), "a stranger is itself");
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let creations = creations(0, 8);
        let peer = peer("1.1.1.1", false);
        for _ in 0..100 {
            assert_eq!(creations.count(peer, &HeaderMap::new()), Ok(Counted(None)));
        }
        assert!(creations.rooms.lock().whole_at.is_empty());
    }
}
