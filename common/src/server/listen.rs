//! Binds ports, for one thread or for several.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// Connections that wait to be accepted, on each thread.
const BACKLOG: u32 = 1024;

/// So many listeners on one address, at least one; the system spreads connections over them
/// (`SO_REUSEPORT`). With port 0 it chooses one for all. Needs a tokio runtime.
///
/// # Errors
/// When the address is in use, by a program that shares it, too, or can't be bound.
pub fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let alone = socket(address)?;
    alone.bind(address)?;
    if count <= 1 {
        return Ok(vec![alone.listen(BACKLOG)?.into_std()?]);
    }
    // Sharing the port would let a second program bind it, too: a listener that doesn't share finds
    // out whether somebody else has it. It is gone before it listens.
    let mut address = address;
    address.set_port(alone.local_addr()?.port());
    drop(alone);
    (0..count)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?.into_std()
        })
        .collect()
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // So that a restart doesn't wait for old connections.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_share_an_address_with_each_other_and_nobody_else() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ours = listen(any, 3).unwrap();
        let addresses: Vec<_> = ours.iter().map(|one| one.local_addr().unwrap()).collect();
        let [address, second, third] = addresses[..] else {
            panic!("three");
        };
        assert!(address.port() != 0 && address == second && second == third);
        for count in [1, 2] {
            let error = listen(address, count).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{count}");
        }
        drop(ours);
        assert_eq!(listen(address, 0).unwrap().len(), 1);
    }
}
