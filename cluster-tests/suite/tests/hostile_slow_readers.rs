//! Clients that don't read their answers: the memory of the answers is bounded, and others are
//! served.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;

use cloudkv_test_harness::{
    Bucket, H2Connection, H2Event, PublicEndpoint, RawConnection, RawRequest, resident_bytes,
};
use std::future::IntoFuture;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const MIB: usize = 1 << 20;
/// `--answer-memory-mib`, and `--connection-answers-kib` in bytes.
const ANSWER_MEMORY_BYTES: usize = 8 * MIB;
const CONNECTION_ANSWER_BYTES: usize = 256 << 10;
/// Settings that bound waiting answers.
const LIMIT_ARGS: [&str; 8] = [
    "--answer-memory-mib",
    "8",
    "--connection-answers-kib",
    "256",
    "--write-timeout",
    "3s",
    // For connections whose requests were all refused.
    "--idle-timeout",
    "5s",
];

const CONNECTIONS: usize = 8;
/// Maximum number of streams of a connection (`max_streams`).
const STREAMS_PER_CONNECTION: usize = 256;
/// Memory of a connection beside its answers: buffers of HTTP/2 and of the socket, and the heads of
/// its maximum number of requests, at 4 KiB each.
const CONNECTION_BYTES: usize = STREAMS_PER_CONNECTION * (4 << 10) + (512 << 10);
/// Growth of the process that is independent of the clients: caches, threads, buffers between a
/// router and its node, pages that the allocator keeps for a while.
const SLACK_BYTES: usize = 64 * MIB;

/// Assumed size of a connection's first answers, which bounds the reads that begin at once.
const ASSUMED_ANSWER_BYTES: usize = 64 << 10;

/// Returns the maximum growth of the process while all connections request answers of this size and
/// don't read them. Answers of the reads that begin at once may be in memory twice: in a router, as
/// received and as sent on.
fn growth_bound(answer: usize) -> usize {
    let at_once = CONNECTION_ANSWER_BYTES / ASSUMED_ANSWER_BYTES * 2 * answer;
    let connection = CONNECTION_ANSWER_BYTES + CONNECTION_BYTES + at_once;
    ANSWER_MEMORY_BYTES + CONNECTIONS * connection + SLACK_BYTES
}

/// Creates a bucket with `count` keys of `bytes` each.
async fn fill(target: &PublicEndpoint, bytes: usize, count: usize) -> Bucket {
    let bucket = target.large_bucket().await;
    let api = target.node.api();
    let puts = (0..count).map(|number| {
        let key = bucket.key_path(&format!("{number:04}-{}", "k".repeat(56)));
        api.put(&key, vec![b'v'; bytes]).into_future()
    });
    let answers: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
    answers.iter().for_each(|answer| {
        answer.assert_status(200);
    });
    bucket
}

/// Waits until the server resets a stream that makes no progress, or closes the connection.
async fn wait_reset(mut connection: H2Connection) -> H2Connection {
    while !matches!(
        connection.expect_event().await,
        H2Event::Reset(_) | H2Event::Closed
    ) {}
    connection
}

/// Requests `path` on all streams of all connections, whose windows are `window`, until the server
/// has reset each; meanwhile it grows by no more than the bound, and another client is served.
async fn request_without_reading(target: &PublicEndpoint, path: &str, window: u32, bound: usize) {
    let victim = target.api_from(VICTIM);
    let bucket = target.node.api().create_bucket().await;
    victim
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    let before = resident_bytes(target.pid());
    let attack = (0..CONNECTIONS).map(|_| async {
        let mut connection = H2Connection::open(ATTACKER, target.http(), window).await;
        for _ in 0..STREAMS_PER_CONNECTION {
            let json = [("accept", "application/json")];
            connection.get(path, &json).await;
        }
        wait_reset(connection).await
    });
    let watch = async {
        loop {
            let growth = resident_bytes(target.pid()).saturating_sub(before);
            let [growth_mib, bound_mib] = [growth / MIB, bound / MIB];
            assert!(growth < bound, "grew by {growth_mib} MiB of {bound_mib}");
            victim.get(&bucket.key_path("k")).await.assert_status(200);
        }
    };
    tokio::select! {
        _ = join_all(attack) => {}
        () = watch => {}
    }
}

async fn lists_on_closed_windows(target: PublicEndpoint) {
    let bucket = fill(&target, 10, 1000).await;
    let call = target.node.api().get(&bucket.listing_path());
    let list = call.header("accept", "application/json").await;
    let unbounded = list.body.len() * STREAMS_PER_CONNECTION * CONNECTIONS;
    let bound = growth_bound(list.body.len());
    assert!(unbounded > 2 * bound, "{unbounded} bytes are no attack");
    request_without_reading(&target, &bucket.listing_path(), 0, bound).await;
}

async fn large_values_on_closed_windows(target: PublicEndpoint) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key_path(&format!("0000-{}", "k".repeat(56)));
    // A window for the first byte only: the rest waits in the server's HTTP/2.
    request_without_reading(&target, &key, 1, growth_bound(MIB)).await;
}

#[tokio::test]
async fn lists_that_nobody_reads_are_bounded() {
    lists_on_closed_windows(PublicEndpoint::with_node(&LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn lists_that_nobody_reads_are_bounded_at_a_router() {
    lists_on_closed_windows(PublicEndpoint::with_router(&LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded() {
    large_values_on_closed_windows(PublicEndpoint::with_node(&LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded_at_a_router() {
    large_values_on_closed_windows(PublicEndpoint::with_router(&LIMIT_ARGS).await).await;
}

/// Each HTTP/1.1 connection holds one answer; all together hold no more than the budget.
async fn values_over_http1(target: PublicEndpoint) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key_path(&format!("0000-{}", "k".repeat(56)));
    let get = RawRequest::new("GET", &key).bytes();
    // Each requests more than the kernel's buffers hold.
    let connections = 128;
    let before = resident_bytes(target.pid());
    let mut open = vec![];
    for _ in 0..connections {
        let mut connection = RawConnection::open_from(ATTACKER, target.http()).await;
        for _ in 0..8 {
            connection.write(&get).await;
        }
        open.push(connection);
    }
    let victim = target.api_from(VICTIM);
    for _ in 0..50 {
        victim.get(&key).await.assert_status(200);
        let growth = resident_bytes(target.pid()).saturating_sub(before);
        assert!(
            growth < growth_bound(MIB),
            "grew by {} MiB of {}",
            growth / MIB,
            growth_bound(MIB) / MIB
        );
    }
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded_over_http1() {
    values_over_http1(PublicEndpoint::with_node(&LIMIT_ARGS).await).await;
}

async fn one_stream_without_progress(target: PublicEndpoint) {
    let bucket = fill(&target, 1000, 1).await;
    let key = bucket.key_path(&format!("0000-{}", "k".repeat(56)));
    let mut connection = H2Connection::open(ATTACKER, target.http(), 0).await;
    let stuck = connection.get(&key, &[]).await;
    let mut reads = 0;
    loop {
        let active = connection.get(&key, &[]).await;
        connection.send_window_update(active, 1000).await;
        loop {
            match connection.expect_event().await {
                H2Event::Data(stream, _, true) if stream == active => break,
                H2Event::Reset(stream) if stream == stuck => {
                    assert!(reads > 0, "the other streams were not served");
                    return;
                }
                H2Event::Closed | H2Event::GoAway => {
                    panic!("the connection ended after {reads} reads")
                }
                _ => {}
            }
        }
        connection.send_window_update(0, 1000).await;
        reads += 1;
    }
}

#[tokio::test]
async fn a_stream_without_progress_ends_and_the_others_go_on() {
    one_stream_without_progress(PublicEndpoint::with_node(&LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn a_stream_without_progress_ends_and_the_others_go_on_at_a_router() {
    one_stream_without_progress(PublicEndpoint::with_router(&LIMIT_ARGS).await).await;
}

/// A client that reads gets all answers, even if they exceed the limits on waiting ones.
async fn reading_client_gets_all(target: PublicEndpoint) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key_path(&format!("0000-{}", "k".repeat(56)));
    let api = cloudkv_test_harness::ApiClient::http2(target.http());
    let answers = join_all((0..64).map(|_| api.get(&key).into_future())).await;
    assert!(
        answers
            .iter()
            .all(|it| it.status == 200 && it.body.len() == MIB)
    );
}

#[tokio::test]
async fn many_large_concurrent_answers_arrive_one_by_one() {
    reading_client_gets_all(PublicEndpoint::with_node(&LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn many_large_concurrent_answers_arrive_one_by_one_through_a_router() {
    reading_client_gets_all(PublicEndpoint::with_router(&LIMIT_ARGS).await).await;
}
