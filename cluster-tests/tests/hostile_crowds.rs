//! Addresses that take all connections or requests: no address locks out another one.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cloudkv_cluster_tests::{
    Answer, Connection, Ending, Event, H2Connection, Node, NodeOptions, RawRequest, Router, Target,
    eventually,
};
use futures_util::future::join_all;

const SOON: Duration = Duration::from_secs(30);

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Connections that a port has for all in these tests.
const ALL: [&str; 2] = ["--max-connections", "64"];
/// More than those.
const MORE: usize = 100;

/// Fresh connections of somebody else are served.
async fn others_are_served(target: &Target) {
    let api = target.api_from(VICTIM);
    for _ in 0..20 {
        api.get("/ping").await.status(200);
    }
}

/// Waits until a connection is closed; tells whether it was told to go away before.
async fn closed(connection: &mut H2Connection) -> bool {
    let mut told = false;
    loop {
        match connection.next().await {
            Event::GoAway => told = true,
            Event::Closed => return told,
            _ => {}
        }
    }
}

async fn idle_connections_of_one_address(target: Target) {
    let mut idle = vec![];
    for _ in 0..MORE {
        let mut connection = H2Connection::open(ATTACKER, target.http(), 1000).await;
        let ping = connection.get("/ping", &[]).await;
        assert_eq!(connection.status_of(ping).await, 200);
        idle.push(connection);
    }
    others_are_served(&target).await;
    // Its latest connections are its own to use.
    let mut last = idle.pop().unwrap();
    let ping = last.get("/ping", &[]).await;
    assert_eq!(last.status_of(ping).await, 200);
    for longest_idle in &mut idle[..MORE - 32] {
        assert!(closed(longest_idle).await, "it was told to go away");
    }
}

#[tokio::test]
async fn idle_connections_of_one_address_lock_nobody_out() {
    idle_connections_of_one_address(Target::node(&ALL).await).await;
}

#[tokio::test]
async fn idle_connections_of_one_address_lock_nobody_out_of_a_router() {
    idle_connections_of_one_address(Target::router(&ALL).await).await;
}

/// A request whose body never ends, once the server has begun to read that; or its refusal.
async fn busy(
    from: Ipv4Addr,
    address: SocketAddr,
    header: (&str, &str),
) -> Result<Connection, Answer> {
    let mut connection = Connection::open_from(from, address).await;
    let post = RawRequest::new("POST", "/buckets")
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked")
        .header("Expect", "100-continue")
        .header(header.0, header.1);
    connection.write(&post.bytes()).await;
    match connection.receive_any(false).await {
        Ending::Answer(answer) if answer.status == 100 => {
            connection.write(b"1\r\n{\r\n").await;
            Ok(connection)
        }
        Ending::Answer(answer) => Err(answer),
        other => panic!("no answer: {other:?}"),
    }
}

const NOTHING: (&str, &str) = ("X-Other", "1");

async fn busy_connections_of_one_address(target: Target) {
    let (mut held, mut refused) = (vec![], 0);
    for _ in 0..MORE {
        match busy(ATTACKER, target.http(), NOTHING).await {
            Ok(connection) => held.push(connection),
            Err(answer) => {
                answer.error(503, "unavailable").header("retry-after");
                refused += 1;
            }
        }
    }
    assert_eq!((held.len(), refused), (32, MORE - 32));
    others_are_served(&target).await;
}

#[tokio::test]
async fn busy_connections_of_one_address_lock_nobody_out() {
    busy_connections_of_one_address(Target::node(&ALL).await).await;
}

#[tokio::test]
async fn busy_connections_of_one_address_lock_nobody_out_of_a_router() {
    busy_connections_of_one_address(Target::router(&ALL).await).await;
}

/// Of a port that many addresses fill together the longest idle connections are closed.
async fn idle_connections_of_many_addresses(target: Target) {
    let mut used = Connection::open_from(VICTIM, target.http()).await;
    let ping = RawRequest::new("GET", "/ping");
    let mut idle = vec![];
    for number in 0..MORE {
        let from = Ipv4Addr::new(127, 0, 1, number as u8);
        idle.push(H2Connection::open(from, target.http(), 0).await);
        let Ending::Answer(answer) = used.send(&ping).await else {
            panic!("a connection that is used was closed")
        };
        answer.status(200);
    }
    others_are_served(&target).await;
}

#[tokio::test]
async fn idle_connections_of_many_addresses_lock_nobody_out() {
    idle_connections_of_many_addresses(Target::node(&ALL).await).await;
}

#[tokio::test]
async fn idle_connections_of_many_addresses_lock_nobody_out_of_a_router() {
    idle_connections_of_many_addresses(Target::router(&ALL).await).await;
}

/// The client acknowledges pings, and sends its own.
async fn idle_http2(target: Target) {
    let mut connection = H2Connection::open(ATTACKER, target.http(), 1000).await;
    let ping = connection.get("/ping", &[]).await;
    assert_eq!(connection.status_of(ping).await, 200);
    let pings = async {
        let mut told = false;
        loop {
            connection.ping().await;
            while let Some(event) = connection.next_within(Duration::from_millis(20)).await {
                match event {
                    Event::GoAway => told = true,
                    Event::Closed => return told,
                    _ => {}
                }
            }
        }
    };
    let told = tokio::time::timeout(SOON, pings).await;
    assert!(told.expect("it is closed"), "it was told to go away");
}

const IDLE: [&str; 2] = ["--idle-timeout", "1s"];

#[tokio::test]
async fn pings_are_no_requests() {
    idle_http2(Target::node(&IDLE).await).await;
}

#[tokio::test]
async fn pings_are_no_requests_to_a_router() {
    idle_http2(Target::router(&IDLE).await).await;
}

async fn requests_of_one_address(target: Target) {
    const MOST: usize = 8;
    let mut attacker = H2Connection::open(ATTACKER, target.http(), 10_000).await;
    let json = [("content-type", "application/json")];
    let mut streams = vec![];
    for _ in 0..2 * MOST {
        let stream = attacker.begin("POST", "/buckets", &json).await;
        attacker.data(stream, b"{", false).await;
        streams.push(stream);
    }
    for _ in 0..MOST {
        // Any answer to these is a refusal: none has got its body.
        let refused = loop {
            match attacker.next().await {
                Event::Head(stream, _, status) => break (stream, status),
                Event::Closed => panic!("closed"),
                _ => {}
            }
        };
        assert_eq!(refused.1, None, "503 isn't in HPACK's table");
        streams.retain(|stream| *stream != refused.0);
    }
    others_are_served(&target).await;
    // What was let in is done.
    let Some(stream) = streams.pop() else {
        panic!("none was let in")
    };
    attacker.data(stream, b"}", true).await;
    loop {
        match attacker.next().await {
            Event::Data(of, bytes, _) if of == stream => {
                assert!(bytes > 0);
                break;
            }
            Event::Closed => panic!("closed"),
            _ => {}
        }
    }
    assert_eq!(streams.len(), MOST - 1);
}

const REQUESTS: [&str; 2] = ["--address-requests", "8"];

#[tokio::test]
async fn requests_under_way_are_limited_by_address() {
    requests_of_one_address(Target::node(&REQUESTS).await).await;
}

#[tokio::test]
async fn requests_under_way_are_limited_by_address_at_a_router() {
    requests_of_one_address(Target::router(&REQUESTS).await).await;
}

/// More requests at once than the node lets one address have.
async fn a_router_passes_many_on(router: &Router) {
    eventually("the router has reached its node", SOON, async || {
        let answer = router.api().get("/buckets").try_send().await.ok()?;
        (answer.status != 503).then_some(())
    })
    .await;
    let clients = (0..12).map(|number| {
        let from = Ipv4Addr::new(127, 0, 2, number);
        busy(from, router.http(), NOTHING)
    });
    let clients = join_all(clients).await.into_iter();
    let answers = clients.map(|client| async move {
        let mut client = client.expect("let in");
        client.write(b"1\r\n}\r\n0\r\n\r\n").await;
        client.receive(false).await
    });
    for answer in join_all(answers).await {
        let Ending::Answer(answer) = answer else {
            panic!("no answer: {answer:?}")
        };
        answer.status(201);
    }
}

const FEW: [&str; 4] = ["--address-connections", "4", "--address-requests", "4"];

#[tokio::test]
async fn routers_are_believed_on_the_machine_of_a_node_without_certificates() {
    let node = Target::node(&FEW).await.node;
    let router = Router::start(&[node.rpc()]).await;
    a_router_passes_many_on(&router).await;
}

#[tokio::test]
async fn routers_are_believed_for_their_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = cloudkv_cluster_tests::region::Certificates::create(dir.path());
    let address = Ipv4Addr::LOCALHOST.into();
    let mut args = certificates.node(address);
    args.extend(FEW.map(str::to_owned));
    let node = Node::start_with(NodeOptions {
        args,
        ..NodeOptions::default()
    })
    .await;
    let args = certificates.router("router1");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let router = Router::start_with(&[node.rpc()], &args).await;
    a_router_passes_many_on(&router).await;
}

#[tokio::test]
async fn who_only_says_that_it_is_a_router_is_none() {
    let target = Target::node(&FEW).await;
    let mut held = vec![];
    let refused = loop {
        match busy(ATTACKER, target.http(), ("X-CloudKV-Router", "1")).await {
            Ok(connection) => held.push(connection),
            Err(answer) => break answer,
        }
    };
    refused.error(503, "unavailable");
    assert_eq!(held.len(), 4);
    others_are_served(&target).await;
}
