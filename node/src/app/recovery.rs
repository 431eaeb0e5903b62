//! Carries out the recovery by force that the data directory's `recovery.json` asks for, at the
//! start, before any group runs.
//!
//! Invariant: the file is removed, or replaced by that of the next step, only when everything that
//! it asks for is durable. Each step can be repeated, so a start that was interrupted is followed
//! by one that begins the step again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cloudkv_common::config::RegionName;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::errors::StartError;
use super::region_rejoin::export_and_reset;
use crate::clock::Clock;
use crate::cluster::Identity;
use crate::cluster::recovery_file::{self, PendingRecovery, RecoveryStep};
use crate::config::Config;
use crate::meta::{Meta, MetaState};
use crate::raft::{NodeId, OfflineGroup, StateMachine};
use crate::shard::{Shard, ShardState, StateMemory};
use crate::store::Engine;
use crate::store::keys::GroupId;
use crate::types::Nanos;

/// Storage of a node that has no recovery left to carry out before its groups start.
pub(super) struct RecoveredStorage {
    /// The storage; an empty one if the region joins anew.
    pub engine: Arc<Engine>,
    /// Settings with which the node goes on, if its region joins anew: the region is explicit.
    pub rejoin: Option<Config>,
}

/// Carries out the pending recovery of the data directory, whose storage is `engine`, if there is
/// one. Other nodes will reach this one at `address`.
pub(super) async fn carry_out(
    config: &Config,
    address: &str,
    engine: Arc<Engine>,
) -> Result<RecoveredStorage, StartError> {
    let dir = &config.data_dir;
    let Some(pending) = read_pending(dir)? else {
        let rejoin = None;
        return Ok(RecoveredStorage { engine, rejoin });
    };
    let engine = match &pending.step {
        RecoveryStep::Metadata | RecoveryStep::Shards { .. } => {
            let time = Clock::with_offset(config.clock_file.clone()).now();
            recover_groups(dir, &engine, address, &pending, time).await?;
            engine
        }
        RecoveryStep::RegionExport { .. }
        | RecoveryStep::RegionJoin { .. }
        | RecoveryStep::RegionImport { .. } => export_and_reset(config, engine, &pending).await?,
    };
    let rejoin = match read_pending(dir)?.map(|pending| pending.step) {
        Some(RecoveryStep::RegionJoin { region, join }) => {
            Some(rejoin_config(config, &region, join)?)
        }
        _ => None,
    };
    Ok(RecoveredStorage { engine, rejoin })
}

/// Records that the node has joined anew, if its region was recovered so: what it has exported is
/// to be imported.
pub(super) fn finish_join(dir: &Path, identity: &Identity) -> Result<(), StartError> {
    let Some(pending) = read_pending(dir)? else {
        return Ok(());
    };
    let RecoveryStep::RegionJoin { region, .. } = pending.step else {
        return Ok(());
    };
    let next = PendingRecovery {
        node: identity.node_id,
        step: RecoveryStep::RegionImport { region },
        lost: pending.lost,
    };
    let written = recovery_file::write(dir, &next);
    written.map_err(|error| unusable(dir, &format!("write it: {error}")))
}

/// Settings of a node that joins the region anew, at nodes of other regions.
fn rejoin_config(config: &Config, region: &str, join: Vec<String>) -> Result<Config, StartError> {
    let region = RegionName::parse(region)
        .ok_or_else(|| unusable(&config.data_dir, &format!("`{region}` is no region's name")))?;
    Ok(Config {
        region,
        join,
        init: false,
        ..config.clone()
    })
}

fn read_pending(dir: &Path) -> Result<Option<PendingRecovery>, StartError> {
    recovery_file::read(dir).map_err(|error| unusable(dir, &format!("read it: {error}")))
}

fn unusable(dir: &Path, why: &str) -> StartError {
    StartError::RecoveryFile {
        dir: dir.to_owned(),
        why: why.to_owned(),
    }
}

/// Makes this node the only voter of the groups that the pending recovery names, and removes the
/// file.
async fn recover_groups(
    dir: &Path,
    engine: &Arc<Engine>,
    address: &str,
    pending: &PendingRecovery,
    time: Nanos,
) -> Result<(), StartError> {
    let shards = check_owner(dir, pending)?;
    let node = pending.node;
    let failed = |group| move |source| StartError::Recover { group, source };
    match &pending.step {
        RecoveryStep::Metadata => {
            let recovered = recover_metadata(engine, address, pending, time).await;
            recovered.map_err(failed(GroupId::META))?;
        }
        RecoveryStep::Shards { shards: numbers } => {
            if let Some(number) = numbers.iter().find(|number| **number >= shards) {
                let why = format!("it names shard {number}, but the cluster has {shards} shards");
                return Err(unusable(dir, &why));
            }
            for number in numbers {
                let recovered = recover_shard(engine, *number, node, address).await;
                recovered.map_err(failed(GroupId::shard(*number)))?;
            }
        }
        RecoveryStep::RegionExport { .. }
        | RecoveryStep::RegionJoin { .. }
        | RecoveryStep::RegionImport { .. } => return Ok(()),
    }
    recovery_file::remove(dir).map_err(|error| unusable(dir, &format!("remove it: {error}")))
}

/// Refuses a file of another node, and one that declares this node lost. Returns the number of the
/// cluster's shards.
fn check_owner(dir: &Path, pending: &PendingRecovery) -> Result<u16, StartError> {
    let identity = Identity::read(dir).filter(Identity::is_member);
    let identity = identity.filter(|identity| identity.node_id == pending.node);
    let Some(identity) = identity else {
        return Err(unusable(
            dir,
            &format!(
                "it was written for node {}, and the directory isn't that node's: remove the file",
                pending.node
            ),
        ));
    };
    if pending.lost.contains(&pending.node) {
        let why = "it declares the node itself lost: remove the file, and recover again";
        return Err(unusable(dir, why));
    }
    Ok(identity.shards)
}

/// Makes this node the metadata's only voter, which removes the lost nodes.
async fn recover_metadata(
    engine: &Arc<Engine>,
    address: &str,
    pending: &PendingRecovery,
    time: Nanos,
) -> io::Result<()> {
    let db = engine.state.clone();
    let open = |rows| MetaState::open(db, rows);
    let mut group = OfflineGroup::<Meta>::open(engine, GroupId::META, open)?;
    check_not_empty(&group)?;
    group.apply_log().await?;
    for node in &pending.lost {
        let removed = group.apply(removal_of(*node, time)).await?;
        if let Err(refusal) = removed {
            // It was never registered, so nothing accepts it as a member.
            tracing::warn!(node = u64::from(*node), %refusal, "lost node not removed");
        }
    }
    group.become_sole_voter(pending.node, address).await?;
    let lost = node_numbers(&pending.lost);
    tracing::warn!(
        lost,
        "metadata recovered by force: this node is its only voter"
    );
    Ok(())
}

/// Makes this node the only voter of a shard.
async fn recover_shard(
    engine: &Arc<Engine>,
    number: u16,
    node: NodeId,
    address: &str,
) -> io::Result<()> {
    let db = engine.state.clone();
    let open = |rows| ShardState::open(db, rows, StateMemory::OFFLINE);
    let mut group = OfflineGroup::<Shard>::open(engine, GroupId::shard(number), open)?;
    check_not_empty(&group)?;
    group.apply_log().await?;
    group.become_sole_voter(node, address).await?;
    tracing::warn!(
        shard = number,
        "shard recovered by force: this node is its only voter"
    );
    Ok(())
}

fn check_not_empty<M: StateMachine>(group: &OfflineGroup<M>) -> io::Result<()> {
    if group.is_empty() {
        return Err(io::Error::other(
            "this node holds nothing of it: remove recovery.json, and recover at a node that does",
        ));
    }
    Ok(())
}

/// Command that removes a node from the cluster for good.
fn removal_of(node: NodeId, time: Nanos) -> pb::MetaCommand {
    let set = pb::SetNodeState {
        node: node.into(),
        state: pb::NodeState::Removed.into(),
        expected: pb::NodeState::Unspecified.into(),
    };
    pb::MetaCommand {
        time,
        kind: Some(Command::SetNodeState(set)),
    }
}

/// Numbers of nodes, for logs.
fn node_numbers(nodes: &[NodeId]) -> String {
    let numbers: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
