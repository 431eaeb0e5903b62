//! Addresses of a region's nodes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use uuid::Uuid;

const HTTP_PORT: u16 = 8080;
const RPC_PORT: u16 = 7070;
const ADMIN_PORT: u16 = 9090;
/// Port of the proxy to the node at seat 0; the one to seat 1 is one above, and so on.
const FIRST_PROXY_PORT: u16 = 7170;

/// Maximum number of address ranges that are tried.
const MAX_ATTEMPTS: usize = 20;

/// Addresses of a node, which stay the same after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    address: Ipv4Addr,
}

impl Seat {
    /// Returns the address of the public port.
    pub fn http(self) -> SocketAddr {
        self.port(HTTP_PORT)
    }

    /// Returns the address of the rpc port, which the node advertises.
    pub fn rpc(self) -> SocketAddr {
        self.port(RPC_PORT)
    }

    /// Returns the address of the admin port.
    pub fn admin(self) -> SocketAddr {
        self.port(ADMIN_PORT)
    }

    /// Returns the address that the node at this seat dials in place of the rpc port of seat `to`.
    pub fn proxy_to(self, to: usize) -> SocketAddr {
        self.port(FIRST_PROXY_PORT + u16::try_from(to).unwrap_or(u16::MAX - FIRST_PROXY_PORT))
    }

    fn port(self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }
}

/// Allocates adjacent addresses in a range of 127.0.0.0/8 that nobody else uses, with a listener
/// bound to each proxy's address: as long as one of them lives, nobody else gets these seats.
///
/// # Panics
/// Panics if no range is free.
pub(super) fn allocate(count: usize) -> (Vec<Seat>, Vec<Vec<Option<TcpListener>>>) {
    for _ in 0..MAX_ATTEMPTS {
        let seats = pick_addresses(count);
        if let Ok(listeners) = bind_proxies(&seats) {
            return (seats, listeners);
        }
    }
    panic!("no addresses in 127.0.0.0/8 are free for {count} nodes");
}

fn pick_addresses(count: usize) -> Vec<Seat> {
    let random = Uuid::new_v4();
    let [x, y, ..] = random.as_bytes();
    // 127.0.y.z stays free for other programs on the machine.
    let x = (*x).clamp(1, 254);
    (0..count)
        .map(|seat| Seat {
            address: Ipv4Addr::new(127, x, *y, u8::try_from(11 + seat).unwrap_or(254)),
        })
        .collect()
}

/// Binds listeners, by the seat that dials and the one that is dialled.
fn bind_proxies(seats: &[Seat]) -> io::Result<Vec<Vec<Option<TcpListener>>>> {
    for seat in seats {
        // The node binds its own ports; binding them here shows that they are free.
        for address in [seat.http(), seat.rpc(), seat.admin()] {
            TcpListener::bind(address)?;
        }
    }
    let proxy = |from: usize, to: usize| {
        (from != to)
            .then(|| TcpListener::bind(seats[from].proxy_to(to)))
            .transpose()
    };
    let row = |from| (0..seats.len()).map(|to| proxy(from, to)).collect();
    (0..seats.len()).map(row).collect()
}
