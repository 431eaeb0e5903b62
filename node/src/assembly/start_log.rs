//! What the log tells of a start: what runs, with what, where, and how far it is.

use std::time::{Duration, Instant, SystemTime};

use super::groups::{Groups, Place};
use super::ports::Ports;
use crate::cluster::Identity;
use crate::config::Config;
use crate::meta::NodeState;

/// The process, what it may use, and where it listens.
pub(super) fn begins(config: &Config, ports: &Ports) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        region = %config.region,
        "starting"
    );
    tracing::info!(
        http_threads = config.user_threads(),
        raft_threads = config.raft_threads,
        main_threads = config.main_threads(),
        block_cache_mib = config.block_cache_bytes() >> 20,
        write_buffer_mib = config.write_buffer_mib.0,
        max_connections = config.max_connections,
        "threads and memory"
    );
    let rpc = ports.rpc.as_ref().and_then(|port| port.local_addr().ok());
    tracing::info!(
        http = %ports.http_address,
        rpc = rpc.map_or("none".to_owned(), |address| address.to_string()),
        admin = %ports.admin_address,
        "listening"
    );
}

/// Where others reach the node, and the certificate that it shows them.
pub(super) fn place(config: &Config, place: &Place, has_port: bool) {
    if !has_port {
        return;
    }
    let (rpc, http) = (&place.rpc, &place.http);
    match (place.dialer.tls(), &config.rpc_cert) {
        (Some(tls), Some(cert)) => {
            let left = tls.valid_until().duration_since(SystemTime::now());
            let days_left = left.unwrap_or_default().as_secs() / 86_400;
            let certificate = cert.display();
            tracing::info!(rpc, http, %certificate, days_left, "other nodes reach this one");
        }
        _ => tracing::info!(
            rpc,
            http,
            certificate = "none",
            "other nodes reach this one"
        ),
    }
}

/// The data directory, and whose it is.
pub(super) fn data_directory(config: &Config, identity: &Identity, is_new: bool) {
    let dir = config.data_dir.display();
    let (node, region) = (identity.node_id, &identity.region);
    let cluster = match identity.is_member() {
        true => identity.cluster_id.as_str(),
        false => "none yet",
    };
    let how = if is_new { "new" } else { "found" };
    tracing::info!(%dir, state = how, cluster, node, region, "data directory opened");
    if is_new && identity.is_member() {
        tracing::info!(cluster, shards = identity.shards, "creating a cluster");
    }
}

/// The node serves users.
pub(super) fn serves(groups: &Groups, http: std::net::SocketAddr, began: Instant) {
    let region = &groups.identity.region;
    let after = seconds(began.elapsed());
    if groups.serves_keys() {
        tracing::info!(%http, region, after, "serving");
        return;
    }
    let readiness = groups.readiness();
    let missing = readiness.parts.iter();
    let missing = missing.filter_map(|part| Some((&part.name, part.missing.as_ref()?)));
    let waits_for: Vec<String> = missing
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    let waits_for = waits_for.join("; ");
    tracing::warn!(
        %http, region, after, waits_for,
        "serving, though not ready: requests for some keys are answered 503"
    );
}

/// The node is ready for the first time.
pub(super) fn ready(groups: &Groups, began: Instant) {
    let topology = groups.catalog.topology();
    let nodes = topology.nodes().iter();
    let nodes = nodes
        .filter(|node| node.state != NodeState::Removed)
        .count();
    let regions: Vec<&str> = topology.regions().map(|(_, name)| name).collect();
    let led = groups.shards.iter().filter(|shard| shard.leads());
    let leads: Vec<String> = led.map(|shard| shard.group().id().to_string()).collect();
    tracing::info!(
        after = seconds(began.elapsed()),
        cluster = groups.identity.cluster_id,
        nodes,
        regions = regions.join(", "),
        leads = leads.join(", "),
        metadata = %groups.metadata_state(),
        "ready"
    );
}

/// A time for people.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
