//! Tests of membership changes under load: no replica may answer a read with data that another
//! leader has overwritten, and every change must complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::test_replicas::{NODES, Replica, connect_all, wait_until};
use crate::raft::{NodeId, TargetMembership};

/// Interval of the membership controller.
const CONTROL_INTERVAL: Duration = Duration::from_millis(5);
/// Timeout after which a write is sent again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum number of acknowledged writes between two changes.
const WRITES_PER_CHANGE: u64 = 20;

/// Replicas, each with a controller that moves the shard to the wanted members, as nodes have.
struct TestCluster {
    replicas: Arc<Vec<Replica>>,
    wanted: tokio::sync::watch::Sender<TargetMembership>,
    /// Highest number whose write was acknowledged.
    acknowledged: Arc<AtomicU64>,
    done: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl TestCluster {
    /// Starts this many nodes, of which the first is the only member.
    async fn start(nodes: usize) -> Self {
        let mut replicas = Vec::new();
        for node in &NODES[..nodes] {
            replicas.push(Replica::start(*node, tempfile::tempdir().unwrap()).await);
        }
        connect_all(&replicas);
        let mut cluster = Self {
            wanted: tokio::sync::watch::channel(members(&replicas, &NODES[..1])).0,
            replicas: Arc::new(replicas),
            acknowledged: Arc::default(),
            done: CancellationToken::new(),
            tasks: Vec::new(),
        };
        for at in 0..nodes {
            cluster.spawn(control_members(
                cluster.replicas.clone(),
                at,
                cluster.wanted.subscribe(),
            ));
            let acknowledged = cluster.acknowledged.clone();
            cluster.spawn(read(cluster.replicas.clone(), at, acknowledged));
        }
        let acknowledged = cluster.acknowledged.clone();
        cluster.spawn(write(cluster.replicas.clone(), acknowledged));
        cluster
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let done = self.done.clone();
        let task = async move { done.run_until_cancelled(task).await.unwrap_or_default() };
        self.tasks.push(tokio::spawn(task));
    }

    /// Changes the members to these voters only, and waits until it is done and writes succeed
    /// again.
    async fn change_voters(&self, voters: &[NodeId]) {
        self.wanted.send_replace(members(&self.replicas, voters));
        wait_until(&format!("{voters:?} are the voters"), async || {
            let leader = self.replicas.iter().find(|it| it.shard.is_serving())?;
            let (current, learners) = leader.group().members();
            let has_settled = current.iter().eq(voters) && learners.is_empty();
            let has_settled = has_settled && !leader.group().is_changing();
            (has_settled || self.has_failed()).then_some(())
        })
        .await;
        let before = self.acknowledged.load(Ordering::SeqCst);
        wait_until("writes succeed", async || {
            let now = self.acknowledged.load(Ordering::SeqCst);
            (now >= before + WRITES_PER_CHANGE || self.has_failed()).then_some(())
        })
        .await;
    }

    fn has_failed(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    async fn stop(self) {
        self.done.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        for replica in self.replicas.iter() {
            replica.group().stop().await.unwrap();
            replica.stop.cancel();
        }
    }
}

fn members(replicas: &[Replica], voters: &[NodeId]) -> TargetMembership {
    let addresses = replicas.iter().map(|it| it.address.clone());
    let addresses: BTreeMap<NodeId, String> = NODES.into_iter().zip(addresses).collect();
    TargetMembership {
        voters: voters.to_vec(),
        learners: Vec::new(),
        addresses,
    }
}

async fn control_members(
    replicas: Arc<Vec<Replica>>,
    at: usize,
    wanted: tokio::sync::watch::Receiver<TargetMembership>,
) {
    loop {
        let members = wanted.borrow().clone();
        replicas[at].group().advance_membership(&members).await;
        tokio::time::sleep(CONTROL_INTERVAL).await;
    }
}

/// Writes one number after the other to whichever node leads, each to a key of its own, so that the
/// outcome of a write that timed out doesn't matter.
async fn write(replicas: Arc<Vec<Replica>>, acknowledged: Arc<AtomicU64>) {
    for number in 1.. {
        while !write_once(&replicas, number).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        acknowledged.store(number, Ordering::SeqCst);
    }
}

async fn write_once(replicas: &[Replica], number: u64) -> bool {
    let key = number.to_be_bytes();
    match replicas.iter().find(|it| it.shard.is_serving()) {
        Some(leader) => leader.put_key(&key, number, WRITE_TIMEOUT).await,
        None => false,
    }
}

/// Reads at one node, which must not answer without a write that was acknowledged before.
async fn read(replicas: Arc<Vec<Replica>>, at: usize, acknowledged: Arc<AtomicU64>) {
    loop {
        let before = acknowledged.load(Ordering::SeqCst);
        if let Some(seen) = replicas[at].get_key(&before.to_be_bytes()).await {
            let node = NODES[at];
            assert_eq!(seen, before, "a stale read at node {node}");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_moves_between_two_nodes_serves_no_stale_read() {
    let cluster = TestCluster::start(2).await;
    for _ in 0..25 {
        cluster.change_voters(&[NODES[1]]).await;
        cluster.change_voters(&[NODES[0]]).await;
    }
    cluster.stop().await;
}
