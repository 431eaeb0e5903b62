//! Debian's etcd, three nodes of it, called through their JSON gateways.

use crate::http;
use crate::process::{ChildProcess, find_program, free_port};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Maximum time for the three to elect a leader.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const NODE_COUNT: usize = 3;

/// The three processes.
#[derive(Debug)]
pub(crate) struct Etcd {
    nodes: Vec<ChildProcess>,
    /// Addresses for clients.
    pub clients: Vec<SocketAddr>,
}

impl Etcd {
    /// Starts the three nodes below `dir`; `None` if etcd isn't installed.
    pub(crate) async fn start(dir: &Path) -> Result<Option<Self>> {
        let Some(program) = find_program("etcd") else {
            return Ok(None);
        };
        let (mut clients, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..NODE_COUNT {
            clients.push(SocketAddr::from(([127, 0, 0, 1], free_port().await?)));
            peers.push(format!("http://127.0.0.1:{}", free_port().await?));
        }
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(number, peer)| format!("n{number}={peer}"))
            .collect();
        let cluster = cluster.join(",");
        let mut nodes = Vec::new();
        for (number, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let (name, client) = (format!("n{number}"), format!("http://{client}"));
            let data = dir.join(format!("etcd-{number}")).display().to_string();
            let args = [
                ("--name", name.as_str()),
                ("--data-dir", &data),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", peer),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", &cluster),
                ("--initial-cluster-state", "new"),
                ("--logger", "zap"),
                ("--log-level", "error"),
            ];
            let args = args.iter().flat_map(|(name, value)| [*name, *value]);
            nodes.push(ChildProcess::start(
                &format!("etcd-{number}"),
                &program,
                args,
                dir,
            )?);
        }
        let mut etcd = Self { nodes, clients };
        etcd.wait_ready().await?;
        Ok(Some(etcd))
    }

    async fn wait_ready(&mut self) -> Result<()> {
        for (node, client) in self.nodes.iter_mut().zip(&self.clients) {
            let put = || async move {
                let body = br#"{"key":"cmVhZHk=","value":"cmVhZHk="}"#.to_vec();
                http::expect_success(*client, "POST", "/v3/kv/put", body)
                    .await
                    .ok()
            };
            node.wait_for("acknowledged write", START_TIMEOUT, put)
                .await?;
        }
        Ok(())
    }

    /// Process ids.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(ChildProcess::pid).collect()
    }
}
