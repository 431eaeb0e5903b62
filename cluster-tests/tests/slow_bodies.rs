//! Clients that promise bodies and don't send them: promises take no memory from others, and end.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::time::Duration;

use cloudkv_cluster_tests::{Bucket, Connection, Ending, Event, H2Connection, RawRequest, Target};
use futures_util::future::join_all;

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const MIB: usize = 1 << 20;
/// More than the memory for bodies (64 MiB) holds, of a MiB.
const PROMISES: usize = 72;
/// A byte of each promise comes as often.
const DRIP: Duration = Duration::from_millis(50);
/// More than a body needs that doesn't count where it is small.
const VALUE: usize = 20_000;

/// Drips until the server answers, which it must not do with success.
async fn drip(mut connection: Connection) -> u16 {
    loop {
        connection.write(b"v").await;
        if let Some(ending) = connection.receive_within(DRIP).await {
            match ending {
                Ending::Answer(answer) => return answer.status,
                Ending::Closed => return 0,
                Ending::Broken(why) => panic!("{why}"),
            }
        }
    }
}

async fn promise(target: &Target, bucket: &Bucket, number: usize) -> Connection {
    let mut connection = Connection::open_from(ATTACKER, target.http()).await;
    let put = RawRequest::new("PUT", &bucket.key(&format!("promise-{number}")))
        .header("Content-Length", &MIB.to_string())
        .trailing(b"vv");
    connection.write(&put.bytes()).await;
    connection
}

async fn promises_and_drips(target: Target) {
    let bucket = target.large_bucket().await;
    let promises = (0..PROMISES).map(|number| promise(&target, &bucket, number));
    let promises = join_all(promises).await;
    let mut dripping = std::pin::pin!(join_all(promises.into_iter().map(drip)));
    let victim = target.api_from(VICTIM);
    let mut written = 0;
    let write = async {
        loop {
            let key = bucket.key(&format!("{written}"));
            victim.put(&key, vec![b'v'; VALUE]).await.status(200);
            written += 1;
        }
    };
    let statuses = tokio::select! {
        statuses = &mut dripping => statuses,
        () = write => panic!("writes end"),
    };
    assert!(written > 0);
    assert!(
        statuses.iter().all(|status| [0, 408].contains(status)),
        "{statuses:?}"
    );
}

/// Bodies that drip end after this.
const SLOW: [&str; 2] = ["--body-timeout", "2s"];

#[tokio::test]
async fn promises_of_one_address_take_nothing_from_others() {
    promises_and_drips(Target::node(&SLOW).await).await;
}

#[tokio::test]
async fn promises_of_one_address_take_nothing_from_others_through_a_router() {
    promises_and_drips(Target::router_to_node(&SLOW).await).await;
}

/// What one address really sends takes half of the memory at most.
async fn bodies_that_are_nearly_whole(target: Target) {
    let bucket = target.large_bucket().await;
    let sent = vec![b'v'; MIB - 1];
    let mut held = vec![];
    for number in 0..8 {
        let mut connection = Connection::open_from(ATTACKER, target.http()).await;
        let put = RawRequest::new("PUT", &bucket.key(&format!("held-{number}")))
            .header("Content-Length", &MIB.to_string())
            .trailing(&sent);
        connection.write(&put.bytes()).await;
        held.push(connection);
    }
    // Some had to be refused: all of them together are more than there is.
    let refused = join_all(held.iter_mut().map(|it| it.receive_within(DRIP))).await;
    let victim = target.api_from(VICTIM);
    let key = bucket.key("k");
    for _ in 0..20 {
        victim.put(&key, vec![b'v'; VALUE]).await.status(200);
    }
    let mut refusals = 0;
    for ending in refused.into_iter().flatten() {
        let Ending::Answer(answer) = ending else {
            panic!("no answer: {ending:?}")
        };
        answer.error(503, "unavailable");
        refusals += 1;
    }
    assert!(refusals < held.len(), "half of the memory is for it");
}

/// Memory for bodies: half of it is two of those that are held.
const MEMORY: [&str; 2] = ["--body-memory-mib", "4"];

#[tokio::test]
async fn bodies_of_one_address_take_half_of_the_memory() {
    bodies_that_are_nearly_whole(Target::node(&MEMORY).await).await;
}

#[tokio::test]
async fn bodies_of_one_address_take_half_of_the_memory_through_a_router() {
    bodies_that_are_nearly_whole(Target::router_to_node(&MEMORY).await).await;
}

async fn promises_over_http2(target: Target) {
    let bucket = target.large_bucket().await;
    let mut connection = H2Connection::open(ATTACKER, target.http(), 10_000).await;
    let length = MIB.to_string();
    let mut streams = vec![];
    for number in 0..PROMISES {
        let key = bucket.key(&format!("promise-{number}"));
        let length = [("content-length", length.as_str())];
        let stream = connection.begin("PUT", &key, &length).await;
        connection.data(stream, b"vv", false).await;
        streams.push(stream);
    }
    let victim = target.api_from(VICTIM);
    while !streams.is_empty() {
        victim
            .put(&bucket.key("k"), vec![b'v'; VALUE])
            .await
            .status(200);
        for stream in &streams {
            connection.data(*stream, b"v", false).await;
        }
        while let Some(event) = connection.next_within(DRIP).await {
            match event {
                Event::Head(of, _, status) => {
                    assert_ne!(status, Some(200));
                    streams.retain(|stream| *stream != of);
                }
                Event::Reset(of) => streams.retain(|stream| *stream != of),
                Event::Closed => return,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn promises_over_http2_take_nothing_from_others() {
    promises_over_http2(Target::node(&SLOW).await).await;
}

#[tokio::test]
async fn promises_over_http2_take_nothing_from_others_through_a_router() {
    promises_over_http2(Target::router_to_node(&SLOW).await).await;
}
