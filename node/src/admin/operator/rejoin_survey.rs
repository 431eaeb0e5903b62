//! Asks the survivors of a region what they have of its shards, before it joins the others anew.

use cloudkv_proto::v1 as pb;
use futures_util::future::join_all;

use super::recovery_survey::{Answer, position_from_pb, query_log};
use super::rejoin_scopes::ShardSurvivors;
use crate::cluster::LocalGroups;
use crate::geo::GeoReplication;
use crate::shard::ShardHandle;
use crate::types::{Nanos, NodeId};

/// Returns what this node and the other survivors have of each shard, in the order of the shards.
pub(super) async fn survey_survivors(
    groups: &LocalGroups,
    geo: &GeoReplication,
    survivors: &[NodeId],
) -> Vec<ShardSurvivors> {
    let watermarks = geo.received_watermarks().await;
    let shards = groups.shards.iter().zip(watermarks);
    let surveyed =
        shards.map(|(shard, watermark)| survey_shard(groups, shard, survivors, watermark));
    join_all(surveyed).await
}

async fn survey_shard(
    groups: &LocalGroups,
    shard: &ShardHandle,
    survivors: &[NodeId],
    watermark: Nanos,
) -> ShardSurvivors {
    let (group, me) = (shard.group(), groups.identity.node_id);
    let mut surveyed = ShardSurvivors {
        watermark,
        ..ShardSurvivors::default()
    };
    let here = group.log_summary().await.unwrap_or_default();
    if here.has_member(me) {
        surveyed.logs.insert(me, here.last);
    }
    if groups.has_leader(group) {
        surveyed.leader = *group.leader().borrow();
    }
    let queries = survivors
        .iter()
        .map(|node| query_log(groups, *node, group.id()));
    let answers = join_all(queries).await;
    for (node, answer) in survivors.iter().zip(answers) {
        if let Answer::Log(pb::LogReply {
            is_member: true,
            last,
            leader,
            ..
        }) = answer
        {
            surveyed
                .logs
                .insert(*node, last.as_ref().map(position_from_pb));
            surveyed.leader = surveyed.leader.or(NodeId::nonzero(leader));
        }
    }
    surveyed
}
