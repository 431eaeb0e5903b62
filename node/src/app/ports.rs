//! The node's ports.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use cloudkv_common::process::SystemError;
use cloudkv_common::server::{Encryption, PortBinder, WorkerPort, serve_on_workers};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::errors::RunError;
use crate::api::{Api, HttpSettings};
use crate::cluster::replace_file;
use crate::config::Config;

/// The bound ports.
pub(super) struct Ports {
    /// One for each thread that serves users.
    pub http: Vec<StdListener>,
    pub http_address: SocketAddr,
    /// The rpc port, if the node is configured to have one.
    pub rpc: Option<TcpListener>,
    pub admin_address: SocketAddr,
}

impl Ports {
    /// Binds the ports, the public one once for each thread that serves users. Returns the admin
    /// port apart from the others, since it is served from the first moment on.
    pub(super) fn bind(config: &Config) -> Result<(Self, TcpListener), RunError> {
        let mut binding = PortBinder::default();
        let http = binding.listen("http", config.http, config.user_threads());
        let rpc = config
            .listens_for_nodes()
            .then(|| binding.listen("rpc", config.rpc_address(), 1));
        let admin = binding.listen("admin", config.admin, 1);
        binding.finish()?;
        let address = http.first().map(StdListener::local_addr);
        let admin = single_listener(admin)?;
        let ports = Self {
            http_address: address.unwrap_or(Ok(config.http)).map_err(listen_error)?,
            http,
            rpc: rpc.map(single_listener).transpose()?,
            admin_address: admin.local_addr().map_err(listen_error)?,
        };
        Ok((ports, admin))
    }

    /// Writes the addresses that the node listens on to the data directory, since the system may
    /// have chosen the ports.
    pub(super) fn write_addresses(&self, config: &Config) -> Result<(), RunError> {
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
        write().map_err(SystemError::while_doing("write addresses.json"))?;
        Ok(())
    }
}

/// Binds the rpc port.
pub(super) fn bind_rpc(config: &Config) -> Result<TcpListener, RunError> {
    let mut binding = PortBinder::default();
    let listeners = binding.listen("rpc", config.rpc_address(), 1);
    binding.finish()?;
    single_listener(listeners)
}

/// Returns the only listener of a port, registered with the current runtime.
fn single_listener(listeners: Vec<StdListener>) -> Result<TcpListener, RunError> {
    let listener = listeners.into_iter().next().map(TcpListener::from_std);
    let listener = listener.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()));
    listener.map_err(listen_error)
}

fn listen_error(source: io::Error) -> RunError {
    SystemError::while_doing("listen")(source).into()
}

/// Listeners of the public port.
pub(super) struct PublicListeners {
    /// One for each worker.
    pub listeners: Vec<StdListener>,
    pub address: SocketAddr,
    pub workers: Vec<Handle>,
    pub encryption: Encryption,
}

impl PublicListeners {
    /// Serves users until `drain`, and until all of their requests have completed.
    pub(super) async fn serve(
        self,
        api: &Arc<Api>,
        settings: &HttpSettings,
        drain: &CancellationToken,
    ) -> io::Result<()> {
        let ports = self.listeners.into_iter().zip(self.workers);
        let ports = ports.map(|(listener, worker)| WorkerPort {
            worker,
            listener,
            encryption: self.encryption.clone(),
            handler: api.clone(),
        });
        serve_on_workers(ports, settings, drain).await
    }
}
