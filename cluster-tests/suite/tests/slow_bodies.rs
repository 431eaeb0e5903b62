//! Clients that declare bodies and don't send them: a declared body takes no memory from others,
//! and times out.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::time::Duration;

use cloudkv_test_harness::{
    Bucket, H2Connection, H2Event, PublicEndpoint, RawConnection, RawOutcome, RawRequest,
};
use futures_util::future::join_all;

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const MIB: usize = 1 << 20;
/// Number of declared bodies of 1 MiB: more than the memory for bodies (64 MiB) holds.
const BODY_COUNT: usize = 72;
/// Time between two bytes of a body.
const DRIP_INTERVAL: Duration = Duration::from_millis(50);
/// More than the size below which a body doesn't count.
const VALUE_BYTES: usize = 20_000;

/// Sends byte by byte until the server answers; returns the status, or 0 if it closed.
async fn drip(mut connection: RawConnection) -> u16 {
    loop {
        connection.write(b"v").await;
        if let Some(ending) = connection.receive_within(DRIP_INTERVAL).await {
            match ending {
                RawOutcome::Response(answer) => return answer.status,
                RawOutcome::Closed => return 0,
                RawOutcome::Broken(reason) => panic!("{reason}"),
            }
        }
    }
}

/// Declares a body of 1 MiB, and sends two bytes of it.
async fn declare_body(target: &PublicEndpoint, bucket: &Bucket, number: usize) -> RawConnection {
    let mut connection = RawConnection::open_from(ATTACKER, target.http()).await;
    let put = RawRequest::new("PUT", &bucket.key_path(&format!("declared-{number}")))
        .header("Content-Length", &MIB.to_string())
        .raw_body(b"vv");
    connection.write(&put.bytes()).await;
    connection
}

async fn declared_bodies_that_drip(target: PublicEndpoint) {
    let bucket = target.large_bucket().await;
    let connections = (0..BODY_COUNT).map(|number| declare_body(&target, &bucket, number));
    let connections = join_all(connections).await;
    let mut dripping = std::pin::pin!(join_all(connections.into_iter().map(drip)));
    let victim = target.api_from(VICTIM);
    let mut written = 0;
    let write = async {
        loop {
            let key = bucket.key_path(&format!("{written}"));
            victim
                .put(&key, vec![b'v'; VALUE_BYTES])
                .await
                .assert_status(200);
            written += 1;
        }
    };
    let statuses = tokio::select! {
        statuses = &mut dripping => statuses,
        () = write => panic!("the writes ended"),
    };
    assert!(written > 0);
    assert!(
        statuses.iter().all(|status| [0, 408].contains(status)),
        "{statuses:?}"
    );
}

/// Timeout of a body.
const BODY_TIMEOUT_ARGS: [&str; 2] = ["--body-timeout", "2s"];

#[tokio::test]
async fn declared_bodies_of_one_address_take_no_memory_from_others() {
    declared_bodies_that_drip(PublicEndpoint::with_node(&BODY_TIMEOUT_ARGS).await).await;
}

#[tokio::test]
async fn declared_bodies_of_one_address_take_no_memory_from_others_through_a_router() {
    declared_bodies_that_drip(PublicEndpoint::with_router_to_node(&BODY_TIMEOUT_ARGS).await).await;
}

/// Bodies that one address has really sent take at most half of the memory.
async fn nearly_complete_bodies(target: PublicEndpoint) {
    let bucket = target.large_bucket().await;
    let sent = vec![b'v'; MIB - 1];
    let mut connections = vec![];
    for number in 0..8 {
        let mut connection = RawConnection::open_from(ATTACKER, target.http()).await;
        let put = RawRequest::new(
            "PUT",
            &bucket.key_path(&format!("nearly-complete-{number}")),
        )
        .header("Content-Length", &MIB.to_string())
        .raw_body(&sent);
        connection.write(&put.bytes()).await;
        connections.push(connection);
    }
    // Some must be refused: together they exceed the memory.
    let endings = join_all(
        connections
            .iter_mut()
            .map(|it| it.receive_within(DRIP_INTERVAL)),
    )
    .await;
    let victim = target.api_from(VICTIM);
    let key = bucket.key_path("k");
    for _ in 0..20 {
        victim
            .put(&key, vec![b'v'; VALUE_BYTES])
            .await
            .assert_status(200);
    }
    let mut refusals = 0;
    for ending in endings.into_iter().flatten() {
        let RawOutcome::Response(answer) = ending else {
            panic!("no answer: {ending:?}")
        };
        answer.assert_error(503, "unavailable");
        refusals += 1;
    }
    assert!(refusals < connections.len(), "no body was admitted");
}

/// Memory for bodies: half of it holds two of them.
const BODY_MEMORY_ARGS: [&str; 2] = ["--body-memory-mib", "4"];

#[tokio::test]
async fn bodies_of_one_address_take_half_of_the_memory() {
    nearly_complete_bodies(PublicEndpoint::with_node(&BODY_MEMORY_ARGS).await).await;
}

#[tokio::test]
async fn bodies_of_one_address_take_half_of_the_memory_through_a_router() {
    nearly_complete_bodies(PublicEndpoint::with_router_to_node(&BODY_MEMORY_ARGS).await).await;
}

async fn declared_bodies_over_http2(target: PublicEndpoint) {
    let bucket = target.large_bucket().await;
    let mut connection = H2Connection::open(ATTACKER, target.http(), 10_000).await;
    let length = MIB.to_string();
    let mut streams = vec![];
    for number in 0..BODY_COUNT {
        let key = bucket.key_path(&format!("declared-{number}"));
        let length = [("content-length", length.as_str())];
        let stream = connection.start_request("PUT", &key, &length).await;
        connection.send_data(stream, b"vv", false).await;
        streams.push(stream);
    }
    let victim = target.api_from(VICTIM);
    while !streams.is_empty() {
        victim
            .put(&bucket.key_path("k"), vec![b'v'; VALUE_BYTES])
            .await
            .assert_status(200);
        for stream in &streams {
            connection.send_data(*stream, b"v", false).await;
        }
        while let Some(event) = connection.event_within(DRIP_INTERVAL).await {
            match event {
                H2Event::Headers(of, _, status) => {
                    assert_ne!(status, Some(200));
                    streams.retain(|stream| *stream != of);
                }
                H2Event::Reset(of) => streams.retain(|stream| *stream != of),
                H2Event::Closed => return,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn declared_bodies_over_http2_take_no_memory_from_others() {
    declared_bodies_over_http2(PublicEndpoint::with_node(&BODY_TIMEOUT_ARGS).await).await;
}

#[tokio::test]
async fn declared_bodies_over_http2_take_no_memory_from_others_through_a_router() {
    declared_bodies_over_http2(PublicEndpoint::with_router_to_node(&BODY_TIMEOUT_ARGS).await).await;
}
