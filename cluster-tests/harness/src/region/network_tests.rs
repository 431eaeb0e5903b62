//! Effects of links on bytes, with an echo server in place of a node.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::link_shape::Direction;
use super::network::Network;
use crate::eventually;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough to show that nothing arrives.
const SILENCE: Duration = Duration::from_millis(200);

/// Creates a network with two seats, and an echo server at the second one's `rpc` address.
async fn network_with_echo() -> (Network, JoinHandle<()>) {
    let network = Network::start(2, 1);
    let listener = TcpListener::bind(network.seats()[1].rpc()).await.unwrap();
    let echo = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (network, echo)
}

async fn dial(network: &Network) -> TcpStream {
    let proxy = network.seats()[0].proxy_to(1);
    TcpStream::connect(proxy).await.unwrap()
}

async fn send_text(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
}

async fn expect_text(stream: &mut TcpStream, text: &[u8]) {
    let mut received_bytes = vec![0; text.len()];
    timeout(TIMEOUT, stream.read_exact(&mut received_bytes))
        .await
        .expect("an echo")
        .unwrap();
    assert_eq!(received_bytes, text);
}

async fn expect_silence(stream: &mut TcpStream) {
    let heard = timeout(SILENCE, stream.read_u8()).await;
    assert!(heard.is_err(), "heard {heard:?}");
}

#[tokio::test]
async fn bytes_pass_and_so_does_the_end() {
    let (network, _echo) = network_with_echo().await;
    let mut stream = dial(&network).await;
    let text = vec![7; 3_000_000];
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(&text).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = vec![];
    let (_, received) = tokio::join!(send, timeout(TIMEOUT, read.read_to_end(&mut heard)));
    received.unwrap().unwrap();
    assert!(heard == text);
    assert_eq!(network.affected_count(), 0);
}

#[tokio::test]
async fn a_cut_holds_back_each_direction_until_it_ends() {
    for direction in [Direction::Requests, Direction::Replies] {
        let (network, _echo) = network_with_echo().await;
        let mut stream = dial(&network).await;
        send_text(&mut stream, b"one").await;
        expect_text(&mut stream, b"one").await;
        network.shape(0, 1, |link| link.flow_mut(direction).is_cut = true);
        send_text(&mut stream, b"two").await;
        eventually("the cut holds it", TIMEOUT, async || {
            (network.sum_stats(|stats| &stats.held_back) == 1).then_some(())
        })
        .await;
        expect_silence(&mut stream).await;
        assert_eq!(network.sum_stats(|stats| &stats.held_back), 1);
        network.heal();
        expect_text(&mut stream, b"two").await;
    }
}

#[tokio::test]
async fn one_direction_between_two_nodes_is_cut_on_both_links() {
    let (network, _echo) = network_with_echo().await;
    let mut stream = dial(&network).await;
    network.cut_direction(1, 0);
    send_text(&mut stream, b"one").await;
    expect_silence(&mut stream).await;
    network.heal();
    expect_text(&mut stream, b"one").await;
    network.cut(0, 1);
    // The cut affects a new connection as well: its requests get nowhere.
    let mut late = dial(&network).await;
    send_text(&mut late, b"two").await;
    expect_silence(&mut late).await;
    network.heal();
    expect_text(&mut late, b"two").await;
}

#[tokio::test]
async fn a_node_that_refuses_resets_old_and_new_connections() {
    let (network, _echo) = network_with_echo().await;
    let mut old = dial(&network).await;
    send_text(&mut old, b"one").await;
    expect_text(&mut old, b"one").await;
    network.reset_connections(0);
    let ended = timeout(TIMEOUT, old.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    // The reset may arrive before the end of connecting is observed.
    let new = async {
        let mut new = TcpStream::connect(network.seats()[0].proxy_to(1)).await?;
        new.read_u8().await
    };
    let ended = timeout(TIMEOUT, new).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    assert_eq!(network.sum_stats(|stats| &stats.reset), 2);
    network.heal();
    let mut stream = dial(&network).await;
    send_text(&mut stream, b"two").await;
    expect_text(&mut stream, b"two").await;
}

#[tokio::test]
async fn a_node_that_does_not_listen_refuses_connections() {
    let (network, _echo) = network_with_echo().await;
    let proxy = network.seats()[0].proxy_to(1);
    network.set_listening(1, false);
    let refused = async || {
        let error = TcpStream::connect(proxy).await.err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    };
    crate::eventually("connections are refused", TIMEOUT, refused).await;
    network.set_listening(1, true);
    let mut stream = crate::eventually("it listens again", TIMEOUT, async || {
        TcpStream::connect(proxy).await.ok()
    })
    .await;
    send_text(&mut stream, b"one").await;
    expect_text(&mut stream, b"one").await;
}

#[tokio::test]
async fn a_delay_is_a_lower_bound_of_the_round_trip() {
    let (network, _echo) = network_with_echo().await;
    let mut stream = dial(&network).await;
    network.delay(1, Duration::from_millis(60), Duration::from_millis(20));
    let started = Instant::now();
    send_text(&mut stream, b"one").await;
    expect_text(&mut stream, b"one").await;
    assert!(started.elapsed() >= Duration::from_millis(120));
    assert_eq!(network.sum_stats(|stats| &stats.delayed), 2);
}

#[tokio::test]
async fn all_connections_of_a_node_share_its_bandwidth() {
    let (network, _echo) = network_with_echo().await;
    let text = vec![7; 256 << 10];
    network.limit_uplink(1, 2 << 20);
    let started = Instant::now();
    let exchange = async || {
        let mut stream = dial(&network).await;
        let (mut read, mut write) = stream.split();
        let mut heard = vec![0; text.len()];
        let (sent, received) = tokio::join!(write.write_all(&text), read.read_exact(&mut heard));
        sent.unwrap();
        received.unwrap();
        assert!(heard == text);
    };
    tokio::join!(exchange(), exchange());
    assert!(started.elapsed() >= Duration::from_millis(250));
    assert_eq!(network.bytes_passed_to(1), 512 << 10);
    network.heal();
    exchange().await;
    assert_eq!(network.bytes_passed_to(1), 512 << 10);
}

#[tokio::test]
async fn a_lossy_link_stalls_and_resets_but_keeps_the_order() {
    let (network, _echo) = network_with_echo().await;
    let mut stream = dial(&network).await;
    network.shape_all(0, |flow| flow.stalls_permille = 500);
    for round in 0..20_u8 {
        send_text(&mut stream, &[round; 5]).await;
    }
    for round in 0..20_u8 {
        expect_text(&mut stream, &[round; 5]).await;
    }
    while network.sum_stats(|stats| &stats.stalled) == 0 {
        send_text(&mut stream, b"more").await;
        expect_text(&mut stream, b"more").await;
    }
    network.shape_all(0, |flow| flow.resets_permille = 1000);
    send_text(&mut stream, b"lost").await;
    let mut rest = vec![];
    let ended = timeout(TIMEOUT, stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn via_maps_each_node_to_its_proxy() {
    let network = Network::start(3, 1);
    let seats = network.seats();
    let expected = format!(
        "{}={},{}={}",
        seats[0].rpc(),
        seats[1].proxy_to(0),
        seats[2].rpc(),
        seats[1].proxy_to(2)
    );
    assert_eq!(network.rpc_via(1), expected);
}
