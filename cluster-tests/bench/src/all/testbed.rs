//! The servers of a run: started, filled with keys, and left idle between cells.

use super::plan::Plan;
use crate::hyper_server::Sample;
use crate::process::fill;
use crate::procfs::{self, MemoryUsage};
use crate::servers::{self, BareHyper, Endpoint, INSTALL_COMMAND, Node, Webdis};
use crate::workload::Operation;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Share of one processor, used by all servers together, below which a cell begins.
const IDLE_CPU_SHARE: f64 = 0.05;
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_IDLE_POLLS: usize = 50;
/// Time after which a fresh node's memory is read.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// All running servers.
pub(super) struct Testbed {
    node: Option<Node>,
    _hyper: BareHyper,
    _webdis: Option<Webdis>,
    /// Servers to put under load, the node first.
    pub endpoints: Vec<Endpoint>,
    /// Memory of the node when it was fresh.
    pub node_fresh: Option<MemoryUsage>,
    /// Notes for readers of the results.
    pub notes: Vec<String>,
}

impl Testbed {
    /// Starts all servers below `dir` and writes every key once.
    pub(super) async fn start(plan: &Plan, node_bin: Option<&Path>, dir: &Path) -> Result<Self> {
        eprintln!("starting servers ...");
        let mut notes = Vec::new();
        let mut endpoints = Vec::new();
        let mut samples = servers::stand_in_samples(&plan.value_sizes);
        let (mut node, mut node_fresh) = (None, None);
        if let Some(binary) = node_bin {
            let started = Node::start(binary, &dir.join("node"), dir).await?;
            sleep(SETTLE_TIME).await;
            node_fresh = Some(started.memory()?);
            let endpoint;
            (endpoint, samples) = with_buckets(&started, plan).await?;
            endpoints.push(endpoint);
            node = Some(started);
        } else {
            notes.push("The node was skipped: hyper responds with made-up headers.".to_owned());
        }
        let hyper = BareHyper::start(&samples, dir).await?;
        endpoints.push(hyper.endpoint.clone());
        let webdis = Webdis::start(dir, &plan.value_sizes, plan.webdis).await?;
        match &webdis {
            Some(webdis) => endpoints.push(webdis.endpoint.clone()),
            None => notes.push(format!(
                "webdis + redis were skipped; to install: {INSTALL_COMMAND}"
            )),
        }
        let stage = Self {
            node,
            _hyper: hyper,
            _webdis: webdis,
            endpoints,
            node_fresh,
            notes,
        };
        stage.load_keys(plan).await?;
        Ok(stage)
    }

    /// Current memory of the node.
    pub(super) fn node_memory(&self) -> Result<Option<MemoryUsage>> {
        self.node.as_ref().map(Node::memory).transpose()
    }

    /// Waits until the background work of the last cell is done.
    pub(super) async fn wait_idle(&self) -> Result<()> {
        let pids: Vec<_> = self
            .endpoints
            .iter()
            .flat_map(|server| &server.pids)
            .copied()
            .collect();
        let used = || {
            pids.iter()
                .map(|pid| procfs::cpu_seconds(*pid))
                .sum::<Result<f64>>()
        };
        let mut before = used()?;
        for _ in 0..MAX_IDLE_POLLS {
            sleep(IDLE_POLL_INTERVAL).await;
            let now = used()?;
            if now - before < IDLE_CPU_SHARE * IDLE_POLL_INTERVAL.as_secs_f64() {
                break;
            }
            before = now;
        }
        Ok(())
    }

    async fn load_keys(&self, plan: &Plan) -> Result<()> {
        for endpoint in &self.endpoints {
            for size in &plan.value_sizes {
                if let Some(load) = endpoint.load(Operation::Put, *size) {
                    let kind = endpoint.kind;
                    fill(&load).await.with_context(|| kind.to_string())?;
                }
            }
        }
        Ok(())
    }
}

async fn with_buckets(node: &Node, plan: &Plan) -> Result<(Endpoint, Vec<Sample>)> {
    let (mut buckets, mut samples) = (Vec::new(), Vec::new());
    for size in &plan.value_sizes {
        let bucket = node.create_bucket().await?;
        samples.push(node.sample(&bucket, *size).await?);
        buckets.push((*size, bucket));
    }
    Ok((node.endpoint(&buckets), samples))
}
