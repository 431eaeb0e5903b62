//! The node's endpoint: advertised addresses and certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::errors::RunError;
use super::ports::Ports;
use crate::config::Config;
use crate::rpc::{Dialer, Tls, TlsError, TlsFiles, TlsRole, host_of};

/// Addresses at which other nodes and routers reach this node, and the dialer to reach them.
#[derive(Clone, Debug)]
pub struct NodeEndpoint {
    /// Advertised address of the rpc port.
    pub rpc: String,
    /// Advertised address of the public port.
    pub http: String,
    /// Dialer for connections to other nodes.
    pub dialer: Dialer,
}

/// Resolves the endpoint: the advertised addresses, or those that the node listens on.
pub(super) fn resolve_endpoint(config: &Config, ports: &Ports) -> Result<NodeEndpoint, RunError> {
    let rpc = match &config.advertise_rpc {
        Some(address) => address.clone(),
        None => match &ports.rpc {
            Some(listener) => local_addr(listener)?.to_string(),
            None => config.rpc_address().to_string(),
        },
    };
    let http = match &config.advertise_http {
        Some(address) => address.clone(),
        None => advertised_http(ports.http_address, &rpc),
    };
    let tls = open_certificates(config, &rpc)?;
    let via = config.rpc_via.iter().cloned().collect();
    let dialer = Dialer::new(via, tls);
    Ok(NodeEndpoint { rpc, http, dialer })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, RunError> {
    listener.local_addr().map_err(|source| RunError::System {
        verb: "read the rpc port's address",
        source,
    })
}

/// Returns the advertised public address. A port on all interfaces is advertised with the host of
/// the rpc port.
fn advertised_http(listen_address: SocketAddr, rpc: &str) -> String {
    match rpc.rsplit_once(':') {
        Some((host, _)) if listen_address.ip().is_unspecified() => {
            format!("{host}:{}", listen_address.port())
        }
        Some(_) | None => listen_address.to_string(),
    }
}

fn open_certificates(config: &Config, rpc: &str) -> Result<Option<Arc<Tls>>, TlsError> {
    let (Some(cert), Some(key), Some(ca)) = (&config.rpc_cert, &config.rpc_key, &config.rpc_ca)
    else {
        return Ok(None);
    };
    let files = TlsFiles {
        cert: cert.clone(),
        key: key.clone(),
        ca: ca.clone(),
    };
    let host = host_of(rpc).unwrap_or(rpc).to_owned();
    Tls::open(files, TlsRole::Node { host }).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_all_interfaces_is_advertised_with_the_nodes_host() {
        let at = |listen_address: &str, rpc| advertised_http(listen_address.parse().unwrap(), rpc);
        assert_eq!(at("0.0.0.0:8080", "eu1:7070"), "eu1:8080");
        assert_eq!(at("[::]:8080", "[fd00::1]:7070"), "[fd00::1]:8080");
        assert_eq!(at("10.0.0.1:8080", "eu1:7070"), "10.0.0.1:8080");
    }
}
