//! Limits on connections and requests by client address: no address locks out another one.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cloudkv_test_harness::{
    H2Connection, H2Event, HttpResponse, Node, NodeOptions, PublicEndpoint, RawConnection,
    RawOutcome, RawRequest, Router, eventually,
};
use futures_util::future::join_all;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Limit on a port's connections in these tests.
const CONNECTION_LIMIT_ARGS: [&str; 2] = ["--max-connections", "64"];
/// Number of connections that are opened: more than the limit.
const CONNECTION_COUNT: usize = 100;

/// Checks that new connections of another address are served.
async fn assert_others_are_served(target: &PublicEndpoint) {
    let api = target.api_from(VICTIM);
    for _ in 0..20 {
        api.get("/ping").await.assert_status(200);
    }
}

/// Waits until a connection is closed; returns whether GOAWAY came before.
async fn wait_closed(connection: &mut H2Connection) -> bool {
    let mut has_goaway = false;
    loop {
        match connection.expect_event().await {
            H2Event::GoAway => has_goaway = true,
            H2Event::Closed => return has_goaway,
            _ => {}
        }
    }
}

async fn idle_connections_of_one_address(target: PublicEndpoint) {
    let mut idle = vec![];
    for _ in 0..CONNECTION_COUNT {
        let mut connection = H2Connection::open(ATTACKER, target.http(), 1000).await;
        let ping = connection.get("/ping", &[]).await;
        assert_eq!(connection.status_of(ping).await, 200);
        idle.push(connection);
    }
    assert_others_are_served(&target).await;
    // The address keeps its latest connections.
    let mut last = idle.pop().unwrap();
    let ping = last.get("/ping", &[]).await;
    assert_eq!(last.status_of(ping).await, 200);
    for longest_idle in &mut idle[..CONNECTION_COUNT - 32] {
        assert!(wait_closed(longest_idle).await, "closed without GOAWAY");
    }
}

#[tokio::test]
async fn idle_connections_of_one_address_lock_nobody_out() {
    idle_connections_of_one_address(PublicEndpoint::with_node(&CONNECTION_LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn idle_connections_of_one_address_lock_nobody_out_of_a_router() {
    idle_connections_of_one_address(PublicEndpoint::with_router(&CONNECTION_LIMIT_ARGS).await)
        .await;
}

/// Sends a request whose body never ends, until the server has begun to read it; or returns its
/// refusal.
async fn begin_request(
    from: Ipv4Addr,
    address: SocketAddr,
    header: (&str, &str),
) -> Result<RawConnection, HttpResponse> {
    let mut connection = RawConnection::open_from(from, address).await;
    let post = RawRequest::new("POST", "/buckets")
        .header("Content-Type", "application/json")
        .header("Transfer-Encoding", "chunked")
        .header("Expect", "100-continue")
        .header(header.0, header.1);
    connection.write(&post.bytes()).await;
    match connection.receive_with_interim(false).await {
        RawOutcome::Response(answer) if answer.status == 100 => {
            connection.write(b"1\r\n{\r\n").await;
            Ok(connection)
        }
        RawOutcome::Response(answer) => Err(answer),
        other => panic!("no answer: {other:?}"),
    }
}

const OTHER_HEADER: (&str, &str) = ("X-Other", "1");

async fn busy_connections_of_one_address(target: PublicEndpoint) {
    let (mut open, mut refused) = (vec![], 0);
    for _ in 0..CONNECTION_COUNT {
        match begin_request(ATTACKER, target.http(), OTHER_HEADER).await {
            Ok(connection) => open.push(connection),
            Err(answer) => {
                answer
                    .assert_error(503, "unavailable")
                    .header("retry-after");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (32, CONNECTION_COUNT - 32));
    assert_others_are_served(&target).await;
}

#[tokio::test]
async fn busy_connections_of_one_address_lock_nobody_out() {
    busy_connections_of_one_address(PublicEndpoint::with_node(&CONNECTION_LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn busy_connections_of_one_address_lock_nobody_out_of_a_router() {
    busy_connections_of_one_address(PublicEndpoint::with_router(&CONNECTION_LIMIT_ARGS).await)
        .await;
}

/// When many addresses fill a port together, its longest idle connections are closed.
async fn idle_connections_of_many_addresses(target: PublicEndpoint) {
    let mut used = RawConnection::open_from(VICTIM, target.http()).await;
    let ping = RawRequest::new("GET", "/ping");
    let mut idle = vec![];
    for number in 0..CONNECTION_COUNT {
        let from = Ipv4Addr::new(127, 0, 1, number as u8);
        idle.push(H2Connection::open(from, target.http(), 0).await);
        let RawOutcome::Response(answer) = used.send(&ping).await else {
            panic!("a connection that is used was closed")
        };
        answer.assert_status(200);
    }
    assert_others_are_served(&target).await;
}

#[tokio::test]
async fn idle_connections_of_many_addresses_lock_nobody_out() {
    idle_connections_of_many_addresses(PublicEndpoint::with_node(&CONNECTION_LIMIT_ARGS).await)
        .await;
}

#[tokio::test]
async fn idle_connections_of_many_addresses_lock_nobody_out_of_a_router() {
    idle_connections_of_many_addresses(PublicEndpoint::with_router(&CONNECTION_LIMIT_ARGS).await)
        .await;
}

/// The client acknowledges HTTP/2 pings, and sends its own.
async fn idle_http2(target: PublicEndpoint) {
    let mut connection = H2Connection::open(ATTACKER, target.http(), 1000).await;
    let ping = connection.get("/ping", &[]).await;
    assert_eq!(connection.status_of(ping).await, 200);
    let pings = async {
        let mut has_goaway = false;
        loop {
            connection.ping().await;
            while let Some(event) = connection.event_within(Duration::from_millis(20)).await {
                match event {
                    H2Event::GoAway => has_goaway = true,
                    H2Event::Closed => return has_goaway,
                    _ => {}
                }
            }
        }
    };
    let has_goaway = tokio::time::timeout(STATE_TIMEOUT, pings).await;
    assert!(has_goaway.expect("it is closed"), "closed without GOAWAY");
}

const IDLE_TIMEOUT_ARGS: [&str; 2] = ["--idle-timeout", "1s"];

#[tokio::test]
async fn pings_do_not_keep_a_connection_open() {
    idle_http2(PublicEndpoint::with_node(&IDLE_TIMEOUT_ARGS).await).await;
}

#[tokio::test]
async fn pings_do_not_keep_a_connection_to_a_router_open() {
    idle_http2(PublicEndpoint::with_router(&IDLE_TIMEOUT_ARGS).await).await;
}

async fn requests_of_one_address(target: PublicEndpoint) {
    const MAX_REQUESTS: usize = 8;
    let mut attacker = H2Connection::open(ATTACKER, target.http(), 10_000).await;
    let json = [("content-type", "application/json")];
    let mut streams = vec![];
    for _ in 0..2 * MAX_REQUESTS {
        let stream = attacker.start_request("POST", "/buckets", &json).await;
        attacker.send_data(stream, b"{", false).await;
        streams.push(stream);
    }
    for _ in 0..MAX_REQUESTS {
        // Any answer to these is a refusal, since no request has its whole body.
        let refused = loop {
            match attacker.expect_event().await {
                H2Event::Headers(stream, _, status) => break (stream, status),
                H2Event::Closed => panic!("closed"),
                _ => {}
            }
        };
        assert_eq!(refused.1, None, "503 isn't in HPACK's table");
        streams.retain(|stream| *stream != refused.0);
    }
    assert_others_are_served(&target).await;
    // An admitted request is answered.
    let Some(stream) = streams.pop() else {
        panic!("none was admitted")
    };
    attacker.send_data(stream, b"}", true).await;
    loop {
        match attacker.expect_event().await {
            H2Event::Data(of, bytes, _) if of == stream => {
                assert!(bytes > 0);
                break;
            }
            H2Event::Closed => panic!("closed"),
            _ => {}
        }
    }
    assert_eq!(streams.len(), MAX_REQUESTS - 1);
}

const REQUEST_LIMIT_ARGS: [&str; 2] = ["--address-requests", "8"];

#[tokio::test]
async fn requests_under_way_are_limited_by_address() {
    requests_of_one_address(PublicEndpoint::with_node(&REQUEST_LIMIT_ARGS).await).await;
}

#[tokio::test]
async fn requests_under_way_are_limited_by_address_at_a_router() {
    requests_of_one_address(PublicEndpoint::with_router(&REQUEST_LIMIT_ARGS).await).await;
}

/// Sends more requests at once through a router than the node allows one address.
async fn assert_router_forwards_many(router: &Router) {
    eventually(
        "the router is connected to its node",
        STATE_TIMEOUT,
        async || {
            let answer = router.api().get("/buckets").try_send().await.ok()?;
            (answer.status != 503).then_some(())
        },
    )
    .await;
    let clients = (0..12).map(|number| {
        let from = Ipv4Addr::new(127, 0, 2, number);
        begin_request(from, router.http(), OTHER_HEADER)
    });
    let clients = join_all(clients).await.into_iter();
    let answers = clients.map(|client| async move {
        let mut client = client.expect("admitted");
        client.write(b"1\r\n}\r\n0\r\n\r\n").await;
        client.receive(false).await
    });
    for answer in join_all(answers).await {
        let RawOutcome::Response(answer) = answer else {
            panic!("no answer: {answer:?}")
        };
        answer.assert_status(201);
    }
}

const LOW_LIMIT_ARGS: [&str; 4] = ["--address-connections", "4", "--address-requests", "4"];

#[tokio::test]
async fn a_local_router_is_trusted_by_a_node_without_certificates() {
    let node = PublicEndpoint::with_node(&LOW_LIMIT_ARGS).await.node;
    let router = Router::start(&[node.rpc()]).await;
    assert_router_forwards_many(&router).await;
}

#[tokio::test]
async fn a_router_with_a_certificate_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = cloudkv_test_harness::region::Certificates::create(dir.path());
    let address = Ipv4Addr::LOCALHOST.into();
    let mut args = certificates.issue_node(address);
    args.extend(LOW_LIMIT_ARGS.map(str::to_owned));
    let node = Node::start_with(NodeOptions {
        args,
        ..NodeOptions::default()
    })
    .await;
    let args = certificates.issue_router("router1");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let router = Router::start_with(&[node.rpc()], &args).await;
    assert_router_forwards_many(&router).await;
}

#[tokio::test]
async fn a_client_that_claims_to_be_a_router_is_not_trusted() {
    let target = PublicEndpoint::with_node(&LOW_LIMIT_ARGS).await;
    let mut open = vec![];
    let refused = loop {
        match begin_request(ATTACKER, target.http(), ("X-CloudKV-Router", "1")).await {
            Ok(connection) => open.push(connection),
            Err(answer) => break answer,
        }
    };
    refused.assert_error(503, "unavailable");
    assert_eq!(open.len(), 4);
    assert_others_are_served(&target).await;
}
