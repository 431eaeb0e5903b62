//! Binding of ports, for one thread or for several.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// Maximum number of connections that wait to be accepted, on each thread.
const ACCEPT_BACKLOG: u32 = 1024;

/// Binds `count` listeners to one address, at least one; the system spreads connections over them
/// (`SO_REUSEPORT`). With port 0 it chooses one port for all. Needs a tokio runtime.
///
/// # Errors
/// Fails if the address is in use, even by a program that would share it, or can't be bound.
pub fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let exclusive = socket(address)?;
    exclusive.bind(address)?;
    if count <= 1 {
        return Ok(vec![exclusive.listen(ACCEPT_BACKLOG)?.into_std()?]);
    }
    // Sharing the port would let a second program bind it, too: a socket that doesn't share it
    // detects whether another program has it. It is closed before it listens.
    let mut address = address;
    address.set_port(exclusive.local_addr()?.port());
    drop(exclusive);
    (0..count)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            socket.listen(ACCEPT_BACKLOG)?.into_std()
        })
        .collect()
}

/// Binder of a program's ports: it tries all of them, so that one error names all failures.
#[derive(Debug, Default)]
pub struct PortBinder(Vec<BindFailure>);

/// Failure to bind a port.
#[derive(Debug)]
struct BindFailure {
    setting: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Error that names all ports that can't be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}", described(.0))]
pub struct BindError(Vec<BindFailure>);

impl PortBinder {
    /// Binds the listeners of a setting, as [`listen`] does; returns none if it fails.
    pub fn listen(
        &mut self,
        setting: &'static str,
        address: SocketAddr,
        count: usize,
    ) -> Vec<TcpListener> {
        listen(address, count).unwrap_or_else(|source| {
            self.0.push(BindFailure {
                setting,
                address,
                source,
            });
            Vec::new()
        })
    }

    /// Reports the failures.
    ///
    /// # Errors
    /// Fails if a port couldn't be bound.
    pub fn finish(self) -> Result<(), BindError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(BindError(self.0))
        }
    }
}

fn described(failures: &[BindFailure]) -> String {
    let one = |failure: &BindFailure| {
        let BindFailure {
            setting,
            address,
            source,
        } = failure;
        format!("--{setting} {address} can't be bound: {source}")
    };
    let all = failures.iter().map(one).collect::<Vec<_>>().join("; ");
    let is_used = |failure: &BindFailure| failure.source.kind() == io::ErrorKind::AddrInUse;
    if failures.iter().all(is_used) {
        format!("{all}. Stop the programs that listen there, or choose free addresses")
    } else {
        format!("{all}. Choose free addresses of this machine")
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart need not wait for old connections.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_share_an_address_only_with_each_other() {
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

    #[tokio::test]
    async fn one_error_names_all_ports_that_cannot_be_bound() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let taken = [listen(any, 1).unwrap(), listen(any, 1).unwrap()];
        let [one, other] = taken.each_ref().map(|it| it[0].local_addr().unwrap());
        let mut binding = PortBinder::default();
        assert!(binding.listen("http", one, 2).is_empty());
        assert_eq!(binding.listen("rpc", any, 2).len(), 2);
        assert!(binding.listen("admin", other, 1).is_empty());
        let error = binding.finish().unwrap_err().to_string();
        for part in [
            format!("--http {one} can't be bound: Address already in use"),
            format!("--admin {other} can't be bound: Address already in use"),
            "Stop the programs that listen there".to_owned(),
        ] {
            assert!(error.contains(&part), "{part}: {error}");
        }
        assert!(!error.contains("rpc"), "{error}");
        PortBinder::default().finish().unwrap();
    }
}
