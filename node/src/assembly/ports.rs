//! The node's ports.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use cloudkv_common::server::{Encryption, Serving, listen, serve_on_workers};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::run::RunError;
use crate::api::{Api, HttpSettings};
use crate::cluster::replace_file;
use crate::config::Config;

/// The bound ports.
pub(super) struct Ports {
    /// One for each thread that serves users.
    pub http: Vec<StdListener>,
    pub http_address: SocketAddr,
    /// That for other nodes and routers, if the node is told to have one.
    pub rpc: Option<TcpListener>,
    pub admin_address: SocketAddr,
}

impl Ports {
    /// Binds them, that for users for each thread that serves them; returns that for the operator
    /// apart from the others, since it is served from the first moment on.
    pub fn bind(config: &Config) -> Result<(Self, TcpListener), RunError> {
        let (http, http_address) = bind("http", config.http, config.user_threads())?;
        let rpc = config.serves_nodes().then(|| bind_rpc(config));
        let admin = bind_one("admin", config.admin)?;
        let admin_address = admin.local_addr().map_err(|source| RunError::System {
            verb: "read an address",
            source,
        })?;
        let ports = Self {
            http,
            http_address,
            rpc: rpc.transpose()?,
            admin_address,
        };
        Ok((ports, admin))
    }

    /// Tells, in the data directory, where the node listens: ports may have been chosen by the system.
    pub fn write_addresses(&self, config: &Config) -> Result<(), RunError> {
        let write = || {
            let rpc = self.rpc.as_ref().map(TcpListener::local_addr).transpose()?;
            let addresses = serde_json::json!({
                "http": self.http_address.to_string(),
                "rpc": rpc.map(|address| address.to_string()),
                "admin": self.admin_address.to_string(),
                "pid": std::process::id(),
            });
            replace_file(
                &config.data_dir,
                "addresses.json",
                format!("{addresses:#}\n").as_bytes(),
            )
        };
        write().map_err(|source| RunError::System {
            verb: "write addresses.json",
            source,
        })
    }
}

/// So many listeners on one address, and the address.
fn bind(
    setting: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<StdListener>, SocketAddr), RunError> {
    let bound = listen(address, count).and_then(|listeners| {
        let first = listeners.first().ok_or(io::ErrorKind::InvalidInput)?;
        let address = first.local_addr()?;
        Ok((listeners, address))
    });
    bound.map_err(|source| RunError::Bind {
        setting,
        address,
        source,
    })
}

/// The port for other nodes and routers.
pub(super) fn bind_rpc(config: &Config) -> Result<TcpListener, RunError> {
    bind_one("rpc", config.rpc_address())
}

fn bind_one(setting: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let (listeners, _) = bind(setting, address, 1)?;
    let listener = listeners.into_iter().next().map(TcpListener::from_std);
    let listener = listener.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()));
    listener.map_err(|source| RunError::Bind {
        setting,
        address,
        source,
    })
}

/// Where users come in.
pub(super) struct Users {
    /// One for each worker.
    pub listeners: Vec<StdListener>,
    pub address: SocketAddr,
    pub workers: Vec<Handle>,
    pub encryption: Encryption,
}

impl Users {
    /// Serves them until `drain`, and until all their requests have ended.
    pub async fn serve(
        self,
        api: &Arc<Api>,
        settings: &HttpSettings,
        drain: &CancellationToken,
    ) -> io::Result<()> {
        let ports = self.listeners.into_iter().zip(self.workers);
        let ports = ports.map(|(listener, worker)| Serving {
            worker,
            listener,
            encryption: self.encryption.clone(),
            answers: api.clone(),
        });
        serve_on_workers(ports, settings, drain).await
    }
}
