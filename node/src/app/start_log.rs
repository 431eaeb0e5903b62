//! Log events of a start: version, resources, addresses and progress.

use std::net::SocketAddr;
use std::time::Instant;

use cloudkv_common::admin::Component;

use super::endpoint::NodeEndpoint;
use super::ports::Ports;
use crate::cluster::{Identity, ReadinessProbe};
use crate::config::Config;
use crate::event_log::format_seconds;

/// Logs the process, its resources, and the addresses that it listens on.
pub(super) fn log_process(config: &Config, ports: &Ports) {
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

/// Logs the node's endpoint and its certificate.
pub(super) fn log_endpoint(config: &Config, endpoint: &NodeEndpoint, has_port: bool) {
    if !has_port {
        return;
    }
    let (rpc, http) = (&endpoint.rpc, &endpoint.http);
    match (endpoint.dialer.tls(), &config.rpc_cert) {
        (Some(tls), Some(cert)) => {
            let (certificate, days_left) = (cert.display(), tls.days_left());
            tracing::info!(rpc, http, %certificate, days_left, "advertising endpoint");
        }
        _ => tracing::info!(rpc, http, certificate = "none", "advertising endpoint"),
    }
}

/// Logs the data directory and its owner.
pub(super) fn log_data_directory(config: &Config, identity: &Identity, is_new: bool) {
    let dir = config.data_dir.display();
    let (node, region) = (u64::from(identity.node_id), &identity.region);
    let cluster = match identity.is_member() {
        true => identity.cluster_id.as_str(),
        false => "none yet",
    };
    let state = if is_new { "new" } else { "found" };
    tracing::info!(%dir, state, cluster, node, region, "data directory opened");
    if is_new && identity.is_member() {
        tracing::info!(cluster, shards = identity.shards, "creating a cluster");
    }
}

/// Describes the components that aren't ready, and why; empty if all are.
pub(super) fn describe_blocked(components: &[Component]) -> String {
    let blocked = components.iter();
    let blocked = blocked.filter_map(|part| Some((&part.name, part.waiting_for.as_ref()?)));
    let blocked: Vec<String> = blocked
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    blocked.join("; ")
}

/// Logs that the node serves users of a region.
pub(super) fn log_serving(
    probe: &ReadinessProbe,
    region: &str,
    http: SocketAddr,
    started_at: Instant,
) {
    let after = format_seconds(started_at.elapsed());
    if probe.serves_keys() {
        tracing::info!(%http, region, after, "serving");
        return;
    }
    let waits_for = describe_blocked(&probe.check().components);
    tracing::warn!(
        %http, region, after, waits_for,
        "serving but not ready: requests for some keys are answered 503"
    );
}
