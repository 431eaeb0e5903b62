//! Opens the data directory, and joins the node to its cluster.

use std::io;
use std::path::Path;

use cloudkv_proto::v1 as pb;
use tokio_util::sync::CancellationToken;

use super::damage_advice::with_advice;
use super::endpoint::NodeEndpoint;
use super::errors::StartError;
use super::start_log;
use super::start_report::StartReport;
use crate::cluster::{
    Identity, JoinProgress, JoinSettings, NodeList, RequestedIdentity, check_membership, join,
    read_marker,
};
use crate::config::Config;
use crate::meta;
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings};

/// Inputs for joining the node to its cluster.
pub struct MembershipContext<'a> {
    /// True if the region was given explicitly.
    pub is_region_explicit: bool,
    /// Progress of the start.
    pub report: &'a StartReport,
    /// Cancelled when the node should stop.
    pub cancel: &'a CancellationToken,
}

/// Opens the storage, on a thread that may block: reading a long log takes time.
pub(super) async fn open_engine(config: &Config) -> Result<Engine, StartError> {
    let (dir, settings) = (config.data_dir.clone(), engine_settings(config));
    let open = tokio::task::spawn_blocking(move || Engine::open(&dir, &settings));
    match open.await {
        Ok(opened) => opened.map_err(|error| with_advice(&config.data_dir, error.into())),
        Err(error) => Err(StartError::Group {
            group: GroupId::META,
            source: io::Error::other(error),
        }),
    }
}

/// Returns an error if the data directory is marked as unusable.
pub(super) fn check_not_marked(dir: &Path) -> Result<(), StartError> {
    let reason = match read_marker(dir) {
        Ok(None) => return Ok(()),
        Ok(Some(reason)) => reason,
        Err(error) => format!("read its mark: {error}"),
    };
    let dir = dir.to_owned();
    Err(StartError::Unusable { dir, why: reason })
}

/// Settings of the storage.
pub(super) fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        block_cache_bytes: config.block_cache_bytes(),
        write_buffer_bytes: config.write_buffer_mib.bytes(),
        log_segment_bytes: config.log_segment_mib.bytes(),
        compaction_rate: config.compaction_mib_per_s.bytes(),
    }
}

/// Returns the region of the node: a member stays in its region unless another one is given
/// explicitly.
pub(super) fn requested_region(config: &Config, is_region_explicit: bool) -> String {
    let stored = Identity::read(&config.data_dir);
    let member = stored.filter(|stored| stored.is_member() && !is_region_explicit);
    member.map_or_else(|| config.region.to_string(), |stored| stored.region)
}

/// Addresses of the other nodes, as this one last knew them: its metadata isn't open yet.
fn known_addresses(dir: &Path, identity: &Identity, own: &str) -> Vec<String> {
    let nodes = NodeList::read(dir).unwrap_or_default().nodes;
    let others = nodes
        .into_iter()
        .filter(|node| node.id != identity.node_id && node.rpc != own);
    others.map(|node| node.rpc).collect()
}

/// Opens the node's identity, and joins a cluster unless it belongs to one already.
pub(super) async fn join_cluster(
    config: &Config,
    endpoint: &NodeEndpoint,
    has_log: bool,
    membership: &MembershipContext<'_>,
) -> Result<(Identity, Vec<pb::Member>), StartError> {
    let is_new = Identity::read(&config.data_dir).is_none();
    let wanted = RequestedIdentity {
        region: requested_region(config, membership.is_region_explicit),
        shards: config.shards,
        // With no address but its own, it is the first node of its cluster.
        is_joining: config.join.iter().any(|address| *address != endpoint.rpc),
        has_log,
    };
    let identity = Identity::open(&config.data_dir, &wanted)?;
    start_log::log_data_directory(config, &identity, is_new);
    let application = JoinSettings {
        addresses: config.join.clone(),
        dialer: endpoint.dialer.clone(),
        request: pb::JoinRequest {
            region: wanted.region,
            rpc: endpoint.rpc.clone(),
            http: endpoint.http.clone(),
            level: meta::MAX_FEATURE_LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: u32::from(config.shards.unwrap_or(0)),
            region_unnamed: !membership.is_region_explicit,
            name: config.name.clone().unwrap_or_default(),
            ..Default::default()
        },
    };
    if identity.is_member() {
        let report = membership.report;
        report.set_waiting_for("other nodes to confirm that it is still a member");
        let known = known_addresses(&config.data_dir, &identity, &endpoint.rpc);
        let nodes = check_membership(&identity, &application, &known).await?;
        return Ok((identity, nodes));
    }
    let report = |progress: JoinProgress| {
        membership.report.set_waiting_for(progress.waiting_for);
        // It stays until the node is admitted, whatever is answered meanwhile.
        if let Some(conflict) = progress.address_conflict {
            membership.report.set_address_conflict(Some(conflict));
        }
    };
    let joining = join(
        &config.data_dir,
        identity,
        application,
        report,
        membership.cancel,
    );
    let joined = joining.await?;
    membership.report.set_address_conflict(None);
    Ok(joined)
}
