//! Asking a region's nodes what they know, and waiting until they agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;

use super::cluster::{FORMS_WITHIN, Region};
use super::status::{Group, NodeId, Status};
use crate::harness::{eventually, try_eventually};

/// How long a node may take to answer about itself; one that is paused doesn't.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl Region {
    /// What a node says of itself; `None`: it doesn't answer, or it is still starting.
    pub async fn status(&self, seat: usize) -> Option<Status> {
        let call = self.members[seat].admin_api().get("/status").unchecked();
        let answer = tokio::time::timeout(ANSWERS_WITHIN, call.try_send()).await;
        let answer = answer.ok()?.ok().filter(|answer| answer.status == 200)?;
        if answer.json()["starting"].is_string() {
            return None;
        }
        match serde_json::from_slice(&answer.body) {
            Ok(status) => Some(status),
            Err(error) => panic!("odd status of node {seat}: {error}: {answer:?}"),
        }
    }

    /// What a node says of itself, as soon as it answers.
    pub async fn wait_status(&self, seat: usize) -> Status {
        let what = format!("node {seat} answers");
        eventually(&what, FORMS_WITHIN, async || self.status(seat).await).await
    }

    /// What all running nodes say of themselves, by seat.
    pub async fn statuses(&self) -> BTreeMap<usize, Status> {
        let asked = self.running().into_iter();
        let answers = asked.map(async |seat| Some((seat, self.status(seat).await?)));
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// The identity of the node at a seat.
    pub async fn node_id(&self, seat: usize) -> NodeId {
        self.wait_status(seat).await.node
    }

    /// Whether a node says that it is ready to serve.
    pub async fn is_ready(&self, seat: usize) -> bool {
        let call = self.members[seat].admin_api().get("/readyz").unchecked();
        let answer = tokio::time::timeout(ANSWERS_WITHIN, call.try_send()).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }

    /// Waits until a node says that it is ready to serve.
    pub async fn wait_ready(&self, seat: usize) {
        let what = format!("node {seat} is ready");
        eventually(&what, FORMS_WITHIN, async || {
            self.is_ready(seat).await.then_some(())
        })
        .await;
    }

    /// The seat of the leader of a group, if one of the nodes that answer leads it. Of two that
    /// think they do, the one with the later term.
    pub async fn leader_of(&self, group: &str) -> Option<usize> {
        let statuses = self.statuses().await;
        let led = statuses.iter().filter_map(|(seat, status)| {
            let found = status.group(group).filter(|found| found.leads())?;
            Some((found.term, *seat))
        });
        led.max().map(|(_, seat)| seat)
    }

    /// Waits for a group to have a leader, and tells its seat.
    pub async fn wait_leader(&self, group: &str) -> usize {
        let what = format!("{group} has a leader");
        eventually(&what, FORMS_WITHIN, async || self.leader_of(group).await).await
    }

    /// The names of all groups: the metadata and the shards.
    pub fn groups(&self) -> Vec<String> {
        let shards = (0..self.shards()).map(|shard| format!("shard-{shard}"));
        std::iter::once("meta".into()).chain(shards).collect()
    }

    /// Waits until all running nodes are ready and each group has a leader, its voters on these
    /// nodes (three, or one if there are fewer nodes) and no member that isn't one of them.
    pub async fn wait_formed(&self) {
        self.wait_formed_within(FORMS_WITHIN).await;
    }

    /// [`Region::wait_formed`] with a limit of its own.
    pub async fn wait_formed_within(&self, within: Duration) {
        let formed = try_eventually(within, async || {
            self.unformed().await.is_none().then_some(())
        });
        if formed.await.is_none() {
            let why = self.unformed().await.unwrap_or_default();
            panic!("the region did not form within {within:?}: {why}");
        }
    }

    /// The first node that runs and isn't ready to serve.
    pub(crate) async fn unready(&self) -> Option<String> {
        for seat in self.running() {
            if !self.is_ready(seat).await {
                return Some(format!("node {seat} is not ready"));
            }
        }
        None
    }

    /// What is missing for the region to be formed.
    pub(crate) async fn unformed(&self) -> Option<String> {
        if let Some(why) = self.unready().await {
            return Some(why);
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
            .find_map(|name| misformed(name, &statuses, &ids, voters))
    }

    /// Waits until the leaders of shards are spread evenly over the running nodes.
    pub async fn wait_spread(&self) {
        eventually("the leaders are spread", FORMS_WITHIN, async || {
            let statuses = self.statuses().await;
            let led = |status: &Status| status.led().filter(|group| group.is_shard()).count();
            let counts: Vec<usize> = statuses.values().map(led).collect();
            let (least, most) = (counts.iter().min()?, counts.iter().max()?);
            let all = counts.len() == self.running().len();
            (all && most - least <= 1).then_some(())
        })
        .await;
        self.wait_formed().await;
    }

    /// Waits until, without load, all replicas of each group have applied the same and hold the
    /// same; fails at once if two hold something else at the same applied entry.
    pub async fn wait_converged(&self) {
        let converged = try_eventually(FORMS_WITHIN, async || {
            self.diverged().await.is_none().then_some(())
        });
        if converged.await.is_none() {
            let why = self.diverged().await.unwrap_or_default();
            panic!("the nodes did not agree within {FORMS_WITHIN:?}: {why}");
        }
    }

    async fn diverged(&self) -> Option<String> {
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

    /// The replicas of each group, with its name. A shard is a group of its own in each region.
    fn replica_sets<'a>(
        &self,
        statuses: &'a BTreeMap<usize, Status>,
    ) -> Vec<(String, Vec<(usize, &'a Group)>)> {
        let regions: BTreeSet<&str> = statuses.values().map(|it| it.region.as_str()).collect();
        let mut sets = vec![];
        for name in self.groups() {
            let all = replicas(&name, statuses);
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

fn replicas<'a>(name: &str, statuses: &'a BTreeMap<usize, Status>) -> Vec<(usize, &'a Group)> {
    let found = statuses
        .iter()
        .filter_map(|(seat, status)| Some((*seat, status.group(name)?)));
    found.collect()
}

/// What is wrong with a group, as its leader sees it.
fn misformed(
    name: &str,
    statuses: &BTreeMap<usize, Status>,
    ids: &[&NodeId],
    voters: usize,
) -> Option<String> {
    let replicas = replicas(name, statuses);
    let leaders = replicas.iter().filter(|(_, group)| group.leads());
    let Some((_, leader)) = leaders.max_by_key(|(_, group)| group.term) else {
        return Some(format!("{name} has no leader"));
    };
    let mut members = leader.voters.iter().chain(&leader.learners);
    if let Some(stranger) = members.find(|id| !ids.contains(id)) {
        return Some(format!("{stranger}, which doesn't run, is in {name}"));
    }
    // The metadata may have more, one for each three regions and nodes.
    if leader.voters.len() < voters || (leader.is_shard() && leader.voters.len() != voters) {
        return Some(format!("the voters of {name} are {:?}", leader.voters));
    }
    if leader.changing {
        return Some(format!("the members of {name} are being changed"));
    }
    let knows_leader = |group: &Group| group.term == leader.term && group.leader == leader.leader;
    let behind = replicas.iter().find(|(_, group)| !knows_leader(group));
    behind.map(|(seat, _)| format!("node {seat} doesn't know the leader of {name}"))
}
