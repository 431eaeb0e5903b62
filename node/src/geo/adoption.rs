//! Takes over what other regions have, before a new region serves.
//!
//! In this order, shard by shard: every other region holds changes for this one, and has said how far
//! its versions go; only then one of them is asked for all it has, in one view, whose cursors become
//! this region's. What breaks begins again.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command, walk_frame};
use cloudkv_proto::v1::{call, reply};
use futures_util::future::join_all;
use tonic::Streaming;

use super::Geo;
use crate::raft::NodeId;
use crate::rpc::Lane;
use crate::shard::{Response, ShardHandle};
use crate::store::keys::GroupId;

/// Time for a leader to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it is told how much has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A walk of which nothing comes for this long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Takes over a shard; returns the number of records that came.
pub(super) async fn adopt(geo: &Geo, number: u16, shard: &ShardHandle) -> Result<u64, String> {
    let peering = shard.view().peering().borrow().clone();
    let asked = peering
        .header
        .peers
        .iter()
        .map(|peer| ask(geo, number, peer.region));
    let mut donors = Vec::new();
    let mut last_version = 0;
    for answer in join_all(asked).await {
        let (node, answer) = answer?;
        last_version = last_version.max(answer.last_version);
        if answer.open {
            donors.push(node);
        }
    }
    // The nearest one.
    let distance = |node: &NodeId| geo.vitals.of(*node).map(|vital| vital.round_trip);
    let donor = donors.into_iter().min_by_key(distance);
    let donor = donor.ok_or("no region has all that there is")?;
    let request = pb::WalkRequest {
        shard: u32::from(number),
        peer: Some(geo.me),
    };
    let walk = geo.peers.walk(donor, request).await;
    let walk = walk.map_err(|status| status.message().to_owned())?;
    let from = geo.peers.address_of(donor);
    tracing::info!(
        shard = number,
        from,
        "taking over what the other regions have"
    );
    take(number, shard, walk, last_version).await
}

/// Asks the leader of the shard in another region whether it holds changes for this one.
async fn ask(geo: &Geo, number: u16, region: u32) -> Result<(NodeId, pb::PeerReply), String> {
    let node = geo.leader_in(number, region);
    let topology = geo.catalog.topology();
    let name = topology.region_name(region).unwrap_or("?");
    let node = node.ok_or_else(|| format!("no leader of region {name} is heard"))?;
    let query = pb::PeerQuery {
        shard: u32::from(number),
        peer: Some(geo.me),
    };
    let call = geo
        .peers
        .call(node, Lane::Geo, call::Body::Peer(query), ANSWER);
    match call.await.map_err(|error| error.to_string())? {
        reply::Body::Peer(answer) if answer.held => Ok((node, answer)),
        _ => Err(format!(
            "region {name} doesn't hold changes for this one yet"
        )),
    }
}

async fn take(
    number: u16,
    shard: &ShardHandle,
    mut walk: Streaming<pb::WalkFrame>,
    last_version: u64,
) -> Result<u64, String> {
    let mut head = None;
    let (mut count, mut told) = (0, Instant::now());
    loop {
        let frame = tokio::time::timeout(STALL, walk.message()).await;
        let frame = frame.map_err(|_| "the walk stands still".to_owned())?;
        let frame = frame.map_err(|status| status.message().to_owned())?;
        match frame.and_then(|frame| frame.kind) {
            Some(walk_frame::Kind::Head(told)) => head = Some(told),
            Some(walk_frame::Kind::Part(part)) => {
                count += part.records.len() as u64;
                propose(shard, part).await?;
                if told.elapsed() > PROGRESS_INTERVAL {
                    told = Instant::now();
                    tracing::info!(shard = number, records = count, "taking over goes on");
                }
            }
            Some(walk_frame::Kind::End(sent)) if sent == count => break,
            Some(walk_frame::Kind::End(_)) | None => return Err("the walk broke off".to_owned()),
        }
    }
    let mut end = head.ok_or("the walk had no head")?;
    end.last_version = end.last_version.max(last_version);
    let end = pb::Adopt {
        end: Some(end),
        ..Default::default()
    };
    propose(shard, end).await?;
    Ok(count)
}

async fn propose(shard: &ShardHandle, part: pb::Adopt) -> Result<(), String> {
    match shard.propose(Command::Adopt(part)).await {
        Ok(Response::Done) => Ok(()),
        Ok(_) => Err("an answer to something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether all shards of this region serve.
pub(super) async fn all_open(geo: &Geo) -> bool {
    let near = geo.peers.near();
    let asked = (0..).zip(&geo.shards).map(|(number, shard)| {
        let near = &near;
        async move {
            if shard.leads() {
                return shard.view().is_open();
            }
            let group = GroupId::shard(number);
            let Some(node) = geo.vitals.leader_of(group, |node| near.contains(&node)) else {
                return false;
            };
            let query = pb::PeerQuery {
                shard: u32::from(number),
                peer: Some(geo.me),
            };
            let answer = geo
                .peers
                .call(node, Lane::Geo, call::Body::Peer(query), ANSWER);
            matches!(answer.await, Ok(reply::Body::Peer(answer)) if answer.open)
        }
    });
    join_all(asked).await.into_iter().all(|open| open)
}
