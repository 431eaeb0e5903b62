//! Queries a region's nodes, and waits until they agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;

use super::lifecycle::{FORM_TIMEOUT, Region};
use super::status::{GroupStatus, NodeId, NodeStatus};
use crate::{eventually, try_eventually};

/// Time for a node to answer about itself; one that is suspended doesn't.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

impl Region {
    /// Returns a node's status; `None` if it doesn't answer, or is still starting.
    pub async fn status(&self, seat: usize) -> Option<NodeStatus> {
        let call = self.nodes[seat].admin_api().get("/status").unchecked();
        let response = tokio::time::timeout(STATUS_TIMEOUT, call.try_send()).await;
        let response = response
            .ok()?
            .ok()
            .filter(|response| response.status == 200)?;
        if response.json()["starting"].is_string() {
            return None;
        }
        match serde_json::from_slice(&response.body) {
            Ok(status) => Some(status),
            Err(error) => panic!("invalid status of node {seat}: {error}: {response:?}"),
        }
    }

    /// Waits for a node's status.
    pub async fn wait_status(&self, seat: usize) -> NodeStatus {
        let what = format!("node {seat} answers");
        eventually(&what, FORM_TIMEOUT, async || self.status(seat).await).await
    }

    /// Returns the statuses of all running nodes that answer, by seat.
    pub async fn statuses(&self) -> BTreeMap<usize, NodeStatus> {
        let seats = self.running().into_iter();
        let statuses = seats.map(async |seat| Some((seat, self.status(seat).await?)));
        join_all(statuses).await.into_iter().flatten().collect()
    }

    /// Returns the ID of the node at a seat.
    pub async fn node_id(&self, seat: usize) -> NodeId {
        self.wait_status(seat).await.node
    }

    /// Returns whether a node reports that it is ready to serve.
    pub async fn is_ready(&self, seat: usize) -> bool {
        let call = self.nodes[seat].admin_api().get("/readyz").unchecked();
        let response = tokio::time::timeout(STATUS_TIMEOUT, call.try_send()).await;
        matches!(response, Ok(Ok(response)) if response.status == 200)
    }

    /// Waits until a node reports that it is ready to serve.
    pub async fn wait_ready(&self, seat: usize) {
        let what = format!("node {seat} is ready");
        eventually(&what, FORM_TIMEOUT, async || {
            self.is_ready(seat).await.then_some(())
        })
        .await;
    }

    /// Returns the seat of a group's leader, if one of the nodes that answer leads it. Of two that
    /// claim to lead, the one with the later term.
    pub async fn leader_of(&self, group: &str) -> Option<usize> {
        let statuses = self.statuses().await;
        let led = statuses.iter().filter_map(|(seat, status)| {
            let group_status = status
                .group(group)
                .filter(|group_status| group_status.is_leader())?;
            Some((group_status.term, *seat))
        });
        led.max().map(|(_, seat)| seat)
    }

    /// Waits for a group to have a leader, and returns its seat.
    pub async fn wait_leader(&self, group: &str) -> usize {
        let what = format!("{group} has a leader");
        eventually(&what, FORM_TIMEOUT, async || self.leader_of(group).await).await
    }

    /// Returns the latest term of each group that any running node knows.
    pub async fn terms(&self) -> BTreeMap<String, u64> {
        let mut terms = BTreeMap::new();
        for status in self.statuses().await.into_values() {
            for group in status.groups {
                let term = terms.entry(group.group).or_default();
                *term = group.term.max(*term);
            }
        }
        terms
    }

    /// Waits until a node answers a GET with this value, or with 404 if it is `None`.
    pub async fn wait_value(
        &self,
        seat: usize,
        path: &str,
        value: Option<&str>,
        timeout: Duration,
    ) {
        let what = format!("node {seat} has {value:?}");
        eventually(&what, timeout, async || {
            let got = self.api(seat).get(path).await;
            let is_same = match value {
                Some(value) => got.status == 200 && got.text() == value,
                None => got.status == 404,
            };
            is_same.then_some(())
        })
        .await;
    }

    /// Returns the names of all groups: the metadata and the shards.
    pub fn groups(&self) -> Vec<String> {
        let shards = (0..self.shards()).map(|shard| format!("shard-{shard}"));
        std::iter::once("meta".into()).chain(shards).collect()
    }

    /// Waits until all running nodes are ready and each group has a leader, its voters on these
    /// nodes (three, or one if there are fewer nodes) and no other member.
    pub async fn wait_formed(&self) {
        self.wait_formed_within(FORM_TIMEOUT).await;
    }

    /// Like [`Region::wait_formed`], with a limit of its own.
    pub async fn wait_formed_within(&self, limit: Duration) {
        let formed = try_eventually(limit, async || {
            self.formation_problem().await.is_none().then_some(())
        });
        if formed.await.is_none() {
            let problem = self.formation_problem().await.unwrap_or_default();
            panic!("the region did not form within {limit:?}: {problem}");
        }
    }

    /// Returns a running node that isn't ready to serve, as a message.
    pub async fn unready_node(&self) -> Option<String> {
        for seat in self.running() {
            if !self.is_ready(seat).await {
                return Some(format!("node {seat} is not ready"));
            }
        }
        None
    }

    /// Returns the first reason why the region isn't formed.
    pub async fn formation_problem(&self) -> Option<String> {
        if let Some(problem) = self.unready_node().await {
            return Some(problem);
        }
        let running = self.running();
        let statuses = self.statuses().await;
        if statuses.len() < running.len() {
            return Some("a node gives no status".into());
        }
        let ids: Vec<&NodeId> = statuses.values().map(|status| &status.node).collect();
        let voters = if ids.len() < 3 { 1 } else { 3 };
        self.groups()
            .iter()
            .find_map(|name| group_problem(name, &statuses, &ids, voters))
    }

    /// Waits until the leaders of shards are balanced over the running nodes.
    pub async fn wait_leaders_balanced(&self) {
        eventually("the leaders are spread", FORM_TIMEOUT, async || {
            let statuses = self.statuses().await;
            let led =
                |status: &NodeStatus| status.led_groups().filter(|group| group.is_shard()).count();
            let counts: Vec<usize> = statuses.values().map(led).collect();
            let (least, most) = (counts.iter().min()?, counts.iter().max()?);
            let has_all = counts.len() == self.running().len();
            (has_all && most - least <= 1).then_some(())
        })
        .await;
        self.wait_formed().await;
    }

    /// Waits until, without load, all replicas of each group have applied the same entries and hold
    /// the same state; panics at once if two hold different states at the same applied entry.
    pub async fn wait_converged(&self) {
        let converged = try_eventually(FORM_TIMEOUT, async || {
            self.divergence().await.is_none().then_some(())
        });
        if converged.await.is_none() {
            let problem = self.divergence().await.unwrap_or_default();
            panic!("the nodes did not agree within {FORM_TIMEOUT:?}: {problem}");
        }
    }

    async fn divergence(&self) -> Option<String> {
        let statuses = self.statuses().await;
        if statuses.len() < self.running().len() {
            return Some("a node gives no status".into());
        }
        for (name, replicas) in self.replica_sets(&statuses) {
            let mut digests: HashMap<u64, (usize, &str)> = HashMap::new();
            for (seat, group) in &replicas {
                let first = digests.entry(group.applied);
                let (other, digest) = first.or_insert((*seat, &group.digest));
                assert_eq!(
                    *digest, group.digest,
                    "nodes {other} and {seat} hold different states of {name} at {}",
                    group.applied
                );
            }
            if digests.len() != 1 {
                return Some(format!("{name} was applied up to {digests:?}"));
            }
        }
        None
    }

    /// Returns the replicas of each group, with its name. A shard is a group of its own in each
    /// region.
    fn replica_sets<'a>(
        &self,
        statuses: &'a BTreeMap<usize, NodeStatus>,
    ) -> Vec<(String, Vec<(usize, &'a GroupStatus)>)> {
        let regions: BTreeSet<&str> = statuses.values().map(|it| it.region.as_str()).collect();
        let mut sets = vec![];
        for name in self.groups() {
            let all = replicas_of(&name, statuses);
            if name == "meta" {
                sets.push((name, all));
                continue;
            }
            for region in &regions {
                let mut own = all.clone();
                own.retain(|(seat, _)| statuses[seat].region == *region);
                sets.push((format!("{name} of {region}"), own));
            }
        }
        sets
    }
}

fn replicas_of<'a>(
    name: &str,
    statuses: &'a BTreeMap<usize, NodeStatus>,
) -> Vec<(usize, &'a GroupStatus)> {
    let found = statuses
        .iter()
        .filter_map(|(seat, status)| Some((*seat, status.group(name)?)));
    found.collect()
}

/// Returns a problem of a group, as its leader sees it.
fn group_problem(
    name: &str,
    statuses: &BTreeMap<usize, NodeStatus>,
    ids: &[&NodeId],
    voters: usize,
) -> Option<String> {
    let replicas = replicas_of(name, statuses);
    let leaders = replicas.iter().filter(|(_, group)| group.is_leader());
    let Some((_, leader)) = leaders.max_by_key(|(_, group)| group.term) else {
        return Some(format!("{name} has no leader"));
    };
    let mut members = leader.voters.iter().chain(&leader.learners);
    if let Some(unknown_id) = members.find(|id| !ids.contains(id)) {
        return Some(format!("{unknown_id}, which doesn't run, is in {name}"));
    }
    // The metadata group may have more voters, one for each three regions and nodes.
    if leader.voters.len() < voters || (leader.is_shard() && leader.voters.len() != voters) {
        return Some(format!("the voters of {name} are {:?}", leader.voters));
    }
    if leader.changing {
        return Some(format!("the members of {name} are being changed"));
    }
    let knows_leader =
        |group: &GroupStatus| group.term == leader.term && group.leader == leader.leader;
    let behind = replicas.iter().find(|(_, group)| !knows_leader(group));
    behind.map(|(seat, _)| format!("node {seat} doesn't know the leader of {name}"))
}
