//! The node's endpoint: advertised addresses and certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use cloudkv_common::hosts::host_of;
use cloudkv_common::process::SystemError;
use cloudkv_common::server::Encryption;
use tokio::net::TcpListener;

use super::errors::RunError;
use super::ports::Ports;
use crate::config::Config;
use crate::rpc::{Dialer, Tls, TlsError, TlsFiles, TlsRole};

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

impl NodeEndpoint {
    /// Encryption of the public port: that of routers, where there are certificates.
    pub(super) fn public_encryption(&self) -> Encryption {
        match self.dialer.tls() {
            Some(tls) => Encryption::Routers(tls),
            None => Encryption::Off,
        }
    }
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

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, SystemError> {
    let address = listener.local_addr();
    address.map_err(SystemError::while_doing("read the rpc port's address"))
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
    let files = TlsFiles::from_settings(
        config.rpc_cert.clone(),
        config.rpc_key.clone(),
        config.rpc_ca.clone(),
    );
    let host = host_of(rpc).unwrap_or(rpc).to_owned();
    files
        .map(|files| Tls::open(files, TlsRole::Node { host }))
        .transpose()
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
