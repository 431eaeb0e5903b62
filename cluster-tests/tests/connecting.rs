//! What is said where settings keep programs from reaching each other: what to do about it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;
use std::time::Duration;

use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::harness::{Router, clean_command, run_to_exit};
use cloudkv_cluster_tests::region::{Certificates, Region, RegionOptions, Start};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// One node that runs, and a seat for another.
async fn one_and_a_seat(tls: bool) -> Region {
    let options = RegionOptions {
        nodes: 1,
        seats: 2,
        tls,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// Waits until a node that can't join has logged a WARN with all of these parts, and prints it.
async fn wait_warned(region: &Region, seat: usize, parts: &[&str]) {
    let what = format!("node {seat} warns of {parts:?}");
    eventually(&what, STATE_TIMEOUT, async || {
        let log = region.members[seat].log().text();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
        println!("{line}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn without_certificates_a_port_that_asks_for_them_is_named() {
    let mut region = one_and_a_seat(true).await;
    region.members[1].flags.args.clear();
    region.launch(1, &Start::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["asks for certificates", "set rpc_cert, rpc_key and rpc_ca"],
    )
    .await;
}

#[tokio::test]
async fn a_router_without_certificates_says_that_its_nodes_ask_for_them() {
    let region = one_and_a_seat(true).await;
    let router = Router::launch(&[region.seat(0).rpc()], &[]);
    eventually("the router warns", STATE_TIMEOUT, async || {
        let log = router.log_text();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        let line = lines.find(|line| line.contains("set rpc_cert, rpc_key and rpc_ca"))?;
        println!("{line}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn with_certificates_a_port_without_them_is_named() {
    let mut region = one_and_a_seat(false).await;
    let certificates = Certificates::create(region.dir());
    let own = certificates.node(region.seat(1).rpc().ip());
    region.members[1].flags.args = own;
    region.launch(1, &Start::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["speaks without certificates", "to all nodes and routers"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_named() {
    let mut region = one_and_a_seat(true).await;
    let other = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(other.path());
    let own = certificates.node(region.seat(1).rpc().ip());
    region.members[1].flags.args = own;
    region.launch(1, &Start::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["signed by another CA: ", "certificates of one CA"],
    )
    .await;
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_have_is_named() {
    let mut region = one_and_a_seat(true).await;
    let member = &mut region.members[1];
    let detour = format!("elsewhere.example:7070={}", region.network.seats()[0].rpc());
    member.flags.via = detour;
    member.flags.start = vec!["--join".into(), "elsewhere.example:7070".into()];
    member.start();
    let host = region.seat(0).rpc().ip().to_string();
    let parts = ["another name", &host, "certs node elsewhere.example"];
    wait_warned(&region, 1, &parts).await;
}

#[tokio::test]
async fn a_port_that_is_not_for_nodes_is_named() {
    for tls in [false, true] {
        let mut region = one_and_a_seat(tls).await;
        for port in [region.seat(0).http(), region.seat(0).admin()] {
            let member = &mut region.members[1];
            member.flags.start = vec!["--join".into(), port.to_string()];
            member.start();
            let address = port.to_string();
            wait_warned(&region, 1, &[&address, "`rpc`"]).await;
            region.kill(1);
        }
    }
}

#[tokio::test]
async fn an_address_that_another_node_has_is_told_with_the_command_that_frees_it() {
    let mut region = Region::start().await;
    let lost = region.node_id(2).await;
    region.kill(2);
    region.launch_wiped(2);
    let replace = format!("admin replace {lost}");
    wait_warned(&region, 2, &["has the same rpc address", &replace]).await;
    region.replace(0, &lost).await;
    region.wait_listening(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn all_ports_in_use_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let taken: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut command = clean_command();
    command.arg("--data-dir").arg(dir.path().join("data"));
    let mut named = vec!["can't be bound: Address already in use".to_owned()];
    for (name, listener) in ["http", "rpc", "admin"].iter().zip(&taken) {
        let address = listener.local_addr().unwrap().to_string();
        command.args([format!("--{name}"), address.clone()]);
        named.push(format!("--{name} {address}"));
    }
    let refusal = run_to_exit(command).await;
    println!("{}", refusal.message);
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    refusal.names(&named);
}

#[tokio::test]
async fn an_operator_who_calls_where_no_node_is_is_told_what_to_name() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut command = clean_command();
    command.args(["admin", "--admin", &address, "status"]);
    let refusal = run_to_exit(command).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    refusal.names(&[&address, "Does the node run", "--admin", "--config"]);
}
