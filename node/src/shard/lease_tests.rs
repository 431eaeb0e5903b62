//! Tests of read leases, with three replicas of a shard on real storage and real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};

use super::test_replicas::{MAX_ELECTION_TIMEOUT, NODES, Replica, connect_all, peers, wait_until};
use crate::raft::{MembershipStep, NodeId, TargetMembership};
use crate::rpc::StreamKind;

/// Starts three voters, of which the first leads.
async fn start_three() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for node in NODES {
        replicas.push(Replica::start(node, tempfile::tempdir().unwrap()).await);
    }
    connect_all(&replicas);
    let wanted = TargetMembership {
        voters: NODES.to_vec(),
        learners: Vec::new(),
        addresses: NODES
            .into_iter()
            .zip(replicas.iter().map(|it| it.address.clone()))
            .collect(),
    };
    let first = &replicas[0];
    wait_until("three voters", async || {
        first.shard.is_serving().then_some(())?;
        (first.group().advance_membership(&wanted).await == MembershipStep::Done).then_some(())
    })
    .await;
    replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_answers_no_read_during_a_thousand_transfers() {
    let replicas = Arc::new(start_three().await);
    // Highest number whose write was acknowledged.
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
    let (mut leader, mut transferred) = (0, 0);
    for number in 1..=1000_u64 {
        wait_until("a write is acknowledged", async || {
            leader = replicas
                .iter()
                .position(|it| it.shard.is_serving())
                .unwrap_or(leader);
            replicas[leader].put(number).await.then_some(())
        })
        .await;
        acknowledged.store(number, Ordering::SeqCst);
        let others: Vec<NodeId> = NODES
            .into_iter()
            .filter(|it| *it != NODES[leader])
            .collect();
        transferred += u32::from(
            replicas[leader]
                .group()
                .transfer_leadership(&others, "test")
                .await,
        );
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a node answered no read");
    }
    assert!(
        transferred > 900,
        "{transferred} of 1000 transfers succeeded"
    );
    for replica in replicas.iter() {
        replica.group().stop().await.unwrap();
        replica.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_member_grants_no_vote_while_an_old_lease_may_hold() {
    let mut replicas = start_three().await;
    let follower = replicas.pop().unwrap();
    // The leader and the restarted member can't reach each other.
    let restarted = Replica::start(NODES[2], follower.shut_down().await).await;
    let start = Instant::now();
    let caller = peers(NODES[1]);
    caller.set_address(NODES[2], &restarted.address);
    let request_vote = async |transfer| {
        let body = call::Body::Vote(pb::RequestVote {
            group: 1,
            vote: Some(pb::Vote {
                term: 1000,
                candidate: NODES[1].into(),
                committed: false,
            }),
            last: Some(pb::LogId {
                term: 999,
                index: 1 << 40,
            }),
            pre: false,
            transfer,
        });
        caller
            .call(NODES[2], StreamKind::Raft, body, Duration::from_secs(1))
            .await
            .ok()
    };
    let first = wait_until("an answer", async || request_vote(false).await).await;
    let refused = matches!(first, reply::Body::Refused(_));
    // On a machine that stalled meanwhile, the wait may be over.
    assert!(
        refused || start.elapsed() >= MAX_ELECTION_TIMEOUT,
        "{first:?}"
    );
    let granted = wait_until("a vote", async || match request_vote(false).await? {
        reply::Body::Vote(answer) => answer.granted.then_some(()),
        _ => None,
    });
    granted.await;
    assert!(start.elapsed() >= MAX_ELECTION_TIMEOUT);
    // A leadership transfer needs no wait.
    let restarted_again = Replica::start(NODES[2], restarted.shut_down().await).await;
    caller.set_address(NODES[2], &restarted_again.address);
    let transfer_reply = wait_until("an answer", async || request_vote(true).await).await;
    assert!(
        matches!(transfer_reply, reply::Body::Vote(_)),
        "{transfer_reply:?}"
    );
    for replica in replicas.into_iter().chain([restarted_again]) {
        replica.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_transfer_is_lost_resumes_in_a_new_term() {
    let replicas = start_three().await;
    for other in &replicas[1..] {
        other.loses_transfers.store(true, Ordering::Release);
        // No other member campaigns.
        other.group().set_may_lead(false);
    }
    let leader = &replicas[0];
    let term = leader.group().led_term().unwrap();
    let to = &NODES[1..];
    assert!(
        !leader.group().transfer_leadership(to, "test").await,
        "another member took over"
    );
    wait_until("it serves again", async || {
        leader.shard.is_serving().then_some(())
    })
    .await;
    assert!(leader.group().led_term() > Some(term));
    assert!(leader.put(7).await);
    assert_eq!(leader.get().await, Some(7));
    for replica in replicas {
        replica.shut_down().await;
    }
}
