//! Tests of a shard that one replica goes on with after it was recovered by force: what the other
//! replicas had beyond it is given up, also by those that come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::test_replicas::{NODES, Replica, STATE_TIMEOUT, connect_all, wait_until};
use super::{Shard, ShardState, StateMemory};
use crate::raft::{MembershipStep, NodeId, OfflineGroup, TargetMembership};
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings};

const LATER: &[u8] = b"later";

/// Makes nodes the only members, and waits for that.
async fn change_voters(replicas: &[&Replica], voters: &[NodeId]) {
    let addresses = replicas
        .iter()
        .map(|replica| (replica.group().node(), replica.address.clone()));
    let members = TargetMembership {
        voters: voters.to_vec(),
        learners: Vec::new(),
        addresses: addresses.collect::<BTreeMap<_, _>>(),
    };
    wait_until("the members are changed", async || {
        let leader = replicas.iter().find(|it| it.shard.is_leading())?;
        let step = leader.group().advance_membership(&members).await;
        matches!(step, MembershipStep::Done).then_some(())
    })
    .await;
}

/// Waits until all replicas have applied as much, and returns that index.
async fn wait_equal(replicas: &[&Replica]) -> u64 {
    wait_until("the replicas are equal", async || {
        let applied = |replica: &&Replica| replica.group().progress().applied_index();
        let digest = |replica: &&Replica| replica.shard.view().digest();
        let first = replicas.first()?;
        let equal = |other| applied(other) == applied(first) && digest(other) == digest(first);
        replicas.iter().all(equal).then(|| applied(first))
    })
    .await
}

/// Puts a number at a key, through the leader.
async fn put(replicas: &[&Replica], key: &[u8], number: u64) {
    wait_until("a put is acknowledged", async || {
        let leader = replicas.iter().find(|it| it.shard.is_serving())?;
        let is_put = leader.put_key(key, number, STATE_TIMEOUT).await;
        is_put.then_some(())
    })
    .await;
}

/// Makes a node the only voter of the shard in its directory.
async fn recover(dir: &std::path::Path, node: NodeId) {
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 4 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = wait_until("the directory is free", async || {
        Engine::open(dir, &settings).ok()
    });
    let engine = Arc::new(engine.await);
    let db = engine.state.clone();
    let open = |rows| ShardState::open(db, rows, StateMemory::OFFLINE);
    let mut group = OfflineGroup::<Shard>::open(&engine, GroupId::shard(0), open).unwrap();
    group.apply_log().await.unwrap();
    group.become_sole_voter(node, "n3:7070").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_longer_log_follows_the_recovered_one() {
    let mut replicas = Vec::new();
    for node in NODES {
        replicas.push(Replica::start(node, tempfile::tempdir().unwrap()).await);
    }
    connect_all(&replicas);
    let [first, second, third] = <[Replica; 3]>::try_from(replicas).ok().unwrap();
    let all = [&first, &second, &third];
    change_voters(&all, &NODES).await;
    put(&all, b"key", 1).await;
    let known = wait_equal(&all).await;
    let third_dir = third.shut_down().await;
    let others = [&first, &second];
    for number in 2..10 {
        put(&others, b"key", number).await;
        put(&others, LATER, number).await;
    }
    assert!(wait_equal(&others).await > known);
    let second_dir = second.shut_down().await;
    drop(first.shut_down().await);

    recover(third_dir.path(), NODES[2]).await;
    let third = Replica::start(NODES[2], third_dir).await;
    let second = Replica::start(NODES[1], second_dir).await;
    third.peers.set_address(NODES[1], &second.address);
    second.peers.set_address(NODES[2], &third.address);
    let both = [&third, &second];
    put(&both, b"new", 20).await;
    change_voters(&both, &NODES[1..]).await;
    wait_equal(&both).await;
    assert_eq!(third.get().await, Some(1));
    assert_eq!(third.get_key(LATER).await, Some(0));
    put(&both, b"key", 30).await;
    wait_equal(&both).await;
    let applied = second.group().progress().applied_index();
    assert!(applied > known + (1 << 20), "{applied}");
    for replica in [third, second] {
        replica.shut_down().await;
    }
}
