//! Three replicas of a shard, on real storage and real sockets: who may answer reads, and who may
//! not any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};

use super::test_replicas::{ELECTION_MAX, NODES, Replica, introduce, peers, until};
use crate::raft::{Members, NodeId, Step};
use crate::rpc::Lane;

/// Three voters, of which the first leads.
async fn three() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for node in NODES {
        replicas.push(Replica::start(node, tempfile::tempdir().unwrap()).await);
    }
    introduce(&replicas);
    let wanted = Members {
        voters: NODES.to_vec(),
        learners: Vec::new(),
        addresses: NODES
            .into_iter()
            .zip(replicas.iter().map(|it| it.address.clone()))
            .collect(),
    };
    let first = &replicas[0];
    until("three voters", async || {
        first.shard.serves().then_some(())?;
        (first.group().approach(&wanted).await == Step::Done).then_some(())
    })
    .await;
    replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leader_answers_no_read_through_a_thousand_transfers() {
    let replicas = Arc::new(three().await);
    // The highest number whose write was answered.
    let acknowledged = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..NODES.len())
        .map(|at| {
            let (replicas, acknowledged) = (replicas.clone(), acknowledged.clone());
            let done = done.clone();
            tokio::spawn(async move {
                let mut answered = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    if let Some(seen) = replicas[at].get().await {
                        assert!(seen >= before, "{seen} was read after {before} was written");
                        answered += 1;
                    }
                    tokio::task::yield_now().await;
                }
                answered
            })
        })
        .collect();
    let (mut leader, mut handed) = (0, 0);
    for number in 1..=1000_u64 {
        until("a write is answered", async || {
            leader = replicas
                .iter()
                .position(|it| it.shard.serves())
                .unwrap_or(leader);
            replicas[leader].put(number).await.then_some(())
        })
        .await;
        acknowledged.store(number, Ordering::SeqCst);
        let others: Vec<NodeId> = NODES
            .into_iter()
            .filter(|it| *it != NODES[leader])
            .collect();
        handed += u32::from(replicas[leader].group().hand_over(&others, "test").await);
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a node answered no read");
    }
    assert!(handed > 900, "{handed} of 1000 came about");
    for replica in replicas.iter() {
        replica.group().stop().await.unwrap();
        replica.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_restarts_gives_no_vote_while_an_old_lease_may_hold() {
    let mut replicas = three().await;
    let follower = replicas.pop().unwrap();
    // It can neither hear of the leader, nor be asked by it.
    let restarted = Replica::start(NODES[2], follower.end().await).await;
    let began = Instant::now();
    let asker = peers(NODES[1]);
    asker.learn(NODES[2], &restarted.address);
    let ask = async |transfer| {
        let body = call::Body::Vote(pb::RequestVote {
            group: 1,
            vote: Some(pb::Vote {
                term: 1000,
                candidate: NODES[1],
                committed: false,
            }),
            last: Some(pb::LogId {
                term: 999,
                index: 1 << 40,
            }),
            pre: false,
            transfer,
        });
        asker
            .call(NODES[2], Lane::Raft, body, Duration::from_secs(1))
            .await
            .ok()
    };
    let first = until("an answer", async || ask(false).await).await;
    let refused = matches!(first, reply::Body::Refused(_));
    // On a machine that stood still meanwhile, the wait may be over.
    assert!(refused || began.elapsed() >= ELECTION_MAX, "{first:?}");
    let granted = until("a vote", async || match ask(false).await? {
        reply::Body::Vote(answer) => answer.granted.then_some(()),
        _ => None,
    });
    granted.await;
    assert!(began.elapsed() >= ELECTION_MAX);
    // What the leader itself asks for needs no wait.
    let again = Replica::start(NODES[2], restarted.end().await).await;
    asker.learn(NODES[2], &again.address);
    let asked = until("an answer", async || ask(true).await).await;
    assert!(matches!(asked, reply::Body::Vote(_)), "{asked:?}");
    for replica in replicas.into_iter().chain([again]) {
        replica.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_transfer_is_lost_leads_again_in_a_new_term() {
    let replicas = three().await;
    for other in &replicas[1..] {
        other.loses_transfers.store(true, Ordering::Release);
        // Nobody else stands for election.
        other.group().may_lead(false);
    }
    let leader = &replicas[0];
    let term = leader.group().led_term().unwrap();
    let to = &NODES[1..];
    assert!(
        !leader.group().hand_over(to, "test").await,
        "somebody took over"
    );
    until("it answers again", async || {
        leader.shard.serves().then_some(())
    })
    .await;
    assert!(leader.group().led_term() > Some(term));
    assert!(leader.put(7).await);
    assert_eq!(leader.get().await, Some(7));
    for replica in replicas {
        replica.end().await;
    }
}
