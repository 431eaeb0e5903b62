//! Opens what is in the data directory, and gets the node into its cluster.

use std::io;
use std::path::Path;

use cloudkv_proto::v1 as pb;
use tokio_util::sync::CancellationToken;

use super::damaged_log::explained;
use super::groups::{Place, StartError};
use super::start_log;
use crate::admin::Progress;
use crate::cluster::{Application, Identity, Wanted, check_membership, join, marked};
use crate::config::Config;
use crate::meta;
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings};

/// How a node gets into its cluster.
pub struct Entry<'a> {
    /// Whether somebody named its region.
    pub names_region: bool,
    /// What it waits for.
    pub progress: &'a Progress,
    /// Cancelled when it is told to stop.
    pub give_up: &'a CancellationToken,
}

/// Opens the storage, on a thread that may wait for the disk: a long log takes its time.
pub(super) async fn open_engine(config: &Config) -> Result<Engine, StartError> {
    let (dir, settings) = (config.data_dir.clone(), engine_settings(config));
    let open = tokio::task::spawn_blocking(move || Engine::open(&dir, &settings));
    match open.await {
        Ok(opened) => opened.map_err(|error| explained(&config.data_dir, error)),
        Err(error) => Err(StartError::Group {
            group: GroupId::META,
            source: io::Error::other(error),
        }),
    }
}

/// Whether the data directory may be used.
pub(super) fn check_mark(dir: &Path) -> Result<(), StartError> {
    let why = match marked(dir) {
        Ok(None) => return Ok(()),
        Ok(Some(why)) => why,
        Err(error) => format!("its mark can't be read: {error}"),
    };
    let dir = dir.to_owned();
    Err(StartError::Unusable { dir, why })
}

fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        block_cache: config.block_cache_bytes(),
        write_buffer: config.write_buffer_mib.bytes(),
        log_segment: config.log_segment_mib.bytes(),
        compaction_rate: config.compaction_mib_per_s.bytes(),
    }
}

/// Opens the node's identity, and joins a cluster if it belongs to none yet.
pub(super) async fn enter(
    config: &Config,
    place: &Place,
    has_log: bool,
    entry: &Entry<'_>,
) -> Result<(Identity, Vec<pb::Member>), StartError> {
    let kept = Identity::read(&config.data_dir);
    let is_new = kept.is_none();
    // A member stays where it is if nobody says otherwise.
    let unnamed = kept.filter(|kept| kept.is_member() && !entry.names_region);
    let wanted = Wanted {
        region: unnamed.map_or_else(|| config.region.to_string(), |kept| kept.region),
        shards: config.shards,
        // Told of itself alone, it is the first of its cluster.
        joins: config.join.iter().any(|address| *address != place.rpc),
        has_log,
    };
    let identity = Identity::open(&config.data_dir, &wanted)?;
    start_log::data_directory(config, &identity, is_new);
    let application = Application {
        addresses: config.join.clone(),
        dialer: place.dialer.clone(),
        request: pb::JoinRequest {
            region: wanted.region,
            rpc: place.rpc.clone(),
            http: place.http.clone(),
            level: meta::LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: u32::from(config.shards.unwrap_or(0)),
            region_unnamed: !entry.names_region,
            ..Default::default()
        },
    };
    if identity.is_member() {
        let progress = entry.progress;
        progress.waits_for("the nodes of --join to say whether it still belongs to them");
        let nodes = check_membership(&identity, &application).await?;
        return Ok((identity, nodes));
    }
    let waits_for = |what| entry.progress.waits_for(what);
    let joining = join(
        &config.data_dir,
        identity,
        application,
        waits_for,
        entry.give_up,
    );
    Ok(joining.await?)
}
