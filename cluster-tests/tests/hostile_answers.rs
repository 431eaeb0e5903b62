//! Clients that ask and don't read: what their answers take is bounded, and others are served.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;

use cloudkv_cluster_tests::{
    Bucket, Connection, Event, H2Connection, RawRequest, Target, resident_bytes,
};
use std::future::IntoFuture;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

const MIB: usize = 1 << 20;
/// `--answer-memory-mib`, and `--connection-answers-kib` in bytes.
const ANSWER_MEMORY: usize = 8 * MIB;
const CONNECTION_ANSWERS: usize = 256 << 10;
/// Settings that bound what waits.
const BOUNDS: [&str; 8] = [
    "--answer-memory-mib",
    "8",
    "--connection-answers-kib",
    "256",
    "--write-timeout",
    "3s",
    // For connections that have got refusals alone.
    "--idle-timeout",
    "5s",
];

const CONNECTIONS: usize = 8;
/// As many as one connection may have (`max_streams`).
const STREAMS: usize = 256;
/// What a connection takes beside its answers: buffers of HTTP/2 and of the socket, and the heads of as
/// many requests as it may have, at 4 KiB each.
const CONNECTION_BYTES: usize = STREAMS * (4 << 10) + (512 << 10);
/// What the process takes more than at its start whoever asks: caches, threads, what is between a router
/// and its node, pages that the allocator keeps for a while.
const SLACK: usize = 64 * MIB;

/// What the first answers of a connection are taken for: so many reads begin at once as fit then.
const FIRST_ANSWER: usize = 64 << 10;

/// More than the process may grow by while so many connections ask for answers of this size and don't
/// read. Of the reads that begin at once each answer may be there twice: in a router, as it came, and as it
/// goes on.
fn bound(answer: usize) -> usize {
    let at_once = CONNECTION_ANSWERS / FIRST_ANSWER * 2 * answer;
    let connection = CONNECTION_ANSWERS + CONNECTION_BYTES + at_once;
    ANSWER_MEMORY + CONNECTIONS * connection + SLACK
}

/// Keys of `bytes` each, one per stream.
async fn fill(target: &Target, bytes: usize, count: usize) -> Bucket {
    let bucket = target.large_bucket().await;
    let api = target.node.api();
    let puts = (0..count).map(|number| {
        let key = bucket.key(&format!("{number:04}-{}", "k".repeat(56)));
        api.put(&key, vec![b'v'; bytes]).into_future()
    });
    let answers: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
    answers.iter().for_each(|answer| {
        answer.status(200);
    });
    bucket
}

/// Waits until the server ends an answer that makes no progress, or all of the connection.
async fn loses_patience(mut connection: H2Connection) -> H2Connection {
    while !matches!(connection.next().await, Event::Reset(_) | Event::Closed) {}
    connection
}

/// Asks for `path` on all streams of all connections, whose windows are `window`, until the server has
/// lost patience with each; meanwhile it grows by no more than the bound, and somebody else is served.
async fn ask_and_dont_read(target: &Target, path: &str, window: u32, bound: usize) {
    let victim = target.api_from(VICTIM);
    let bucket = target.node.api().bucket().await;
    victim.put(&bucket.key("k"), "v").await.status(200);
    let before = resident_bytes(target.pid());
    let attack = (0..CONNECTIONS).map(|_| async {
        let mut connection = H2Connection::open(ATTACKER, target.http(), window).await;
        for _ in 0..STREAMS {
            let json = [("accept", "application/json")];
            connection.get(path, &json).await;
        }
        loses_patience(connection).await
    });
    let watch = async {
        loop {
            let grew = resident_bytes(target.pid()).saturating_sub(before);
            let [grew_mib, bound_mib] = [grew / MIB, bound / MIB];
            assert!(grew < bound, "grew by {grew_mib} MiB, may by {bound_mib}");
            victim.get(&bucket.key("k")).await.status(200);
        }
    };
    tokio::select! {
        _ = join_all(attack) => {}
        () = watch => {}
    }
}

async fn lists_on_streams_that_are_shut(target: Target) {
    let bucket = fill(&target, 10, 1000).await;
    let whole = target.node.api().get(&bucket.keys());
    let list = whole.header("accept", "application/json").await;
    let unbounded = list.body.len() * STREAMS * CONNECTIONS;
    let bound = bound(list.body.len());
    assert!(unbounded > 2 * bound, "{unbounded} are no attack");
    ask_and_dont_read(&target, &bucket.keys(), 0, bound).await;
}

async fn large_values_on_streams_that_are_shut(target: Target) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key(&format!("0000-{}", "k".repeat(56)));
    // Open enough for the first byte, after which HTTP/2 has the rest.
    ask_and_dont_read(&target, &key, 1, bound(MIB)).await;
}

#[tokio::test]
async fn lists_that_nobody_reads_are_bounded() {
    lists_on_streams_that_are_shut(Target::node(&BOUNDS).await).await;
}

#[tokio::test]
async fn lists_that_nobody_reads_are_bounded_at_a_router() {
    lists_on_streams_that_are_shut(Target::router(&BOUNDS).await).await;
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded() {
    large_values_on_streams_that_are_shut(Target::node(&BOUNDS).await).await;
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded_at_a_router() {
    large_values_on_streams_that_are_shut(Target::router(&BOUNDS).await).await;
}

/// Over HTTP/1.1 each connection holds one answer; together they hold no more than the budget.
async fn values_over_http1(target: Target) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key(&format!("0000-{}", "k".repeat(56)));
    let get = RawRequest::new("GET", &key).bytes();
    // Each asks for more than the kernel's buffers hold.
    let connections = 128;
    let before = resident_bytes(target.pid());
    let mut held = vec![];
    for _ in 0..connections {
        let mut connection = Connection::open_from(ATTACKER, target.http()).await;
        for _ in 0..8 {
            connection.write(&get).await;
        }
        held.push(connection);
    }
    let victim = target.api_from(VICTIM);
    for _ in 0..50 {
        victim.get(&key).await.status(200);
        let grew = resident_bytes(target.pid()).saturating_sub(before);
        assert!(
            grew < bound(MIB),
            "grew by {} MiB, may by {}",
            grew / MIB,
            bound(MIB) / MIB
        );
    }
}

#[tokio::test]
async fn values_that_nobody_reads_are_bounded_over_http1() {
    values_over_http1(Target::node(&BOUNDS).await).await;
}

async fn one_stream_is_stuck(target: Target) {
    let bucket = fill(&target, 1000, 1).await;
    let key = bucket.key(&format!("0000-{}", "k".repeat(56)));
    let mut connection = H2Connection::open(ATTACKER, target.http(), 0).await;
    let stuck = connection.get(&key, &[]).await;
    let mut read = 0;
    loop {
        let moving = connection.get(&key, &[]).await;
        connection.open_window(moving, 1000).await;
        loop {
            match connection.next().await {
                Event::Data(stream, _, true) if stream == moving => break,
                Event::Reset(stream) if stream == stuck => {
                    assert!(read > 0, "the others were served meanwhile");
                    return;
                }
                Event::Closed | Event::GoAway => panic!("the connection ended after {read}"),
                _ => {}
            }
        }
        connection.open_window(0, 1000).await;
        read += 1;
    }
}

#[tokio::test]
async fn a_stream_without_progress_ends_and_the_others_go_on() {
    one_stream_is_stuck(Target::node(&BOUNDS).await).await;
}

#[tokio::test]
async fn a_stream_without_progress_ends_and_the_others_go_on_at_a_router() {
    one_stream_is_stuck(Target::router(&BOUNDS).await).await;
}

/// Whoever reads gets all, however much more that is than may wait.
async fn who_reads_gets_all(target: Target) {
    let bucket = fill(&target, MIB, 1).await;
    let key = bucket.key(&format!("0000-{}", "k".repeat(56)));
    let api = cloudkv_cluster_tests::Api::http2(target.http());
    let answers = join_all((0..64).map(|_| api.get(&key).into_future())).await;
    assert!(
        answers
            .iter()
            .all(|it| it.status == 200 && it.body.len() == MIB)
    );
}

#[tokio::test]
async fn many_large_answers_at_once_come_one_after_the_other() {
    who_reads_gets_all(Target::node(&BOUNDS).await).await;
}

#[tokio::test]
async fn many_large_answers_at_once_come_one_after_the_other_through_a_router() {
    who_reads_gets_all(Target::router(&BOUNDS).await).await;
}
