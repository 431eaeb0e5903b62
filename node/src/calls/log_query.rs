//! Answers how far this node's log of a group reaches, for an operator who recovers the group by
//! force at another node.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, reply};

use crate::cluster::LocalGroups;
use crate::raft::{Group, LogPosition, NodeId, StateMachine, not_here_reply};
use crate::store::keys::GroupId;

/// Describes this node's log of a group, its members and its leader.
pub(super) async fn answer_log_query(groups: Arc<LocalGroups>, query: pb::LogQuery) -> reply::Body {
    let group = u16::try_from(query.group).map(GroupId);
    let described = match group {
        Ok(GroupId::META) => describe_log(&groups, &groups.meta).await,
        Ok(group) => {
            let number = group.shard_number().map(usize::from);
            match number.and_then(|number| groups.shards.get(number)) {
                Some(shard) => describe_log(&groups, shard.group()).await,
                None => return not_here_reply("no such group"),
            }
        }
        Err(_) => return not_here_reply("no such group"),
    };
    match described {
        Some(log) => reply::Body::Log(log),
        None => not_here_reply("the node is stopping"),
    }
}

/// Describes the log; `None` once Raft has stopped. A leader that has lost its majority is none.
async fn describe_log<M: StateMachine>(
    groups: &LocalGroups,
    group: &Group<M>,
) -> Option<pb::LogReply> {
    let log = group.log_summary().await?;
    if !log.has_member(groups.identity.node_id) {
        return Some(pb::LogReply::default());
    }
    let leader = *group.leader().borrow();
    let leader = leader.filter(|_| groups.has_leader(group));
    Some(pb::LogReply {
        is_member: true,
        last: log.last.map(log_id),
        committed: log.committed.map(log_id),
        leader: leader.map_or(0, u64::from),
        voters: numbers(log.voters()),
        learners: numbers(log.learners),
    })
}

fn numbers(nodes: impl IntoIterator<Item = NodeId>) -> Vec<u64> {
    nodes.into_iter().map(u64::from).collect()
}

fn log_id(position: LogPosition) -> pb::LogId {
    pb::LogId {
        term: position.term,
        index: position.index,
    }
}
