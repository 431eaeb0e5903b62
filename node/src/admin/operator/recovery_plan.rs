//! Plans a recovery by force: which groups, without which nodes, and how.

use std::collections::{BTreeMap, BTreeSet};

use super::recovery_facts::{ClusterFacts, GroupFacts};
use crate::admin::RecoveryScope;
use crate::admin::shard_ranges::format_ranges;
use crate::cluster::recovery_file::RecoveryStep;
use crate::types::NodeId;

/// Refusal of a recovery of shards without the metadata, which has to refuse the lost nodes.
const NO_METADATA_LEADER: &str = "the metadata has no leader that this node reaches: start more of \
                                  its voters; if they are lost for good, recover the metadata \
                                  first, with `cloudkv-node admin metadata recover`";

/// What is to be recovered, and without which nodes.
pub(super) struct RecoveryPlan<'a> {
    /// Groups for which the recovery is needed.
    pub groups: Vec<&'a GroupFacts>,
    /// What the next start of this node is to do.
    pub step: RecoveryStep,
    /// Nodes that are declared lost for good.
    pub lost: BTreeSet<NodeId>,
}

/// Plans the recovery of the groups without a refusal, or says why there can be none.
pub(super) fn plan_recovery<'a>(
    facts: &'a ClusterFacts,
    scope: RecoveryScope,
    rejoins: bool,
    refusals: &[Option<String>],
) -> Result<RecoveryPlan<'a>, String> {
    if scope == RecoveryScope::Shards && !facts.is_metadata_led {
        return Err(NO_METADATA_LEADER.to_owned());
    }
    let groups = facts.groups.iter().zip(refusals);
    let groups = groups.filter(|(_, refusal)| refusal.is_none());
    let groups: Vec<&GroupFacts> = groups.map(|(group, _)| group).collect();
    if groups.is_empty() {
        return Err(describe_refusals(facts, scope, refusals));
    }
    let lost = groups.iter().flat_map(|group| group.lost(&facts.alive));
    let mut lost: BTreeSet<NodeId> = lost.collect();
    let step = match scope {
        RecoveryScope::Metadata => RecoveryStep::Metadata,
        RecoveryScope::Shards if rejoins => {
            lost.extend(facts.region_nodes.difference(&facts.alive));
            check_metadata_elsewhere(facts, &lost)?;
            RecoveryStep::RegionExport {
                region: facts.region.clone(),
                join: addresses_to_join(facts)?,
            }
        }
        RecoveryScope::Shards => {
            let numbers = groups.iter().filter_map(|group| group.group.shard_number());
            RecoveryStep::Shards {
                shards: numbers.collect(),
            }
        }
    };
    Ok(RecoveryPlan { groups, step, lost })
}

/// Returns an error if the metadata needs a node of this region for its majority: it would lose it,
/// and the region couldn't join.
fn check_metadata_elsewhere(facts: &ClusterFacts, lost: &BTreeSet<NodeId>) -> Result<(), String> {
    if facts.has_metadata_elsewhere() {
        return Ok(());
    }
    Err(format!(
        "the metadata needs nodes of this region for a majority, and they leave the cluster: \
         start more nodes of the other regions, or take the lost ones ({}) out of the metadata \
         with `cloudkv-node admin replace`, and wait some seconds",
        facts.names(lost).join(", ")
    ))
}

/// Returns the addresses of the other regions' nodes, at which this region joins anew; an error if
/// it can't join now.
fn addresses_to_join(facts: &ClusterFacts) -> Result<Vec<String>, String> {
    if let Some(joining) = facts.other_regions.iter().find(|region| region.is_joining) {
        let name = &joining.name;
        return Err(format!(
            "region {name} is joining, and only one region can join at a time: wait until it \
             serves, or remove it"
        ));
    }
    let regions = facts.other_regions.iter();
    let addresses = regions.flat_map(|region| region.addresses.iter().cloned());
    let addresses: Vec<String> = addresses.collect();
    if addresses.is_empty() {
        return Err(
            "no node of another region can be reached, and this region is recovered from the \
             others: start some of their nodes"
                .to_owned(),
        );
    }
    Ok(addresses)
}

/// Describes why none of the groups can be recovered, with what to do for each of them.
fn describe_refusals(
    facts: &ClusterFacts,
    scope: RecoveryScope,
    refusals: &[Option<String>],
) -> String {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, refusal) in facts.groups.iter().zip(refusals) {
        let reason = refusal.as_deref().unwrap_or_default();
        by_reason.entry(reason).or_default().push(group.name());
    }
    if by_reason.is_empty() {
        return "this node hosts no shard: recover at a node that does".to_owned();
    }
    let describe = |(reason, names): (&str, Vec<String>)| match scope {
        RecoveryScope::Metadata => format!("the metadata can't be recovered here: {reason}"),
        RecoveryScope::Shards => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!(
                "{} can't be recovered here: {reason}",
                format_ranges(&names)
            )
        }
    };
    let described: Vec<String> = by_reason.into_iter().map(describe).collect();
    described.join("; ")
}
