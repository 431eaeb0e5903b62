//! Diagnostics of settings that keep programs from reaching each other, with the remedy.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;
use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::{Certificates, Region, RegionOptions, StartMode};
use cloudkv_test_harness::{Node, Router, node_command, router_command, run_to_exit};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts one node, with a seat for another.
async fn start_one_of_two(tls: bool) -> Region {
    let options = RegionOptions {
        nodes: 1,
        seats: 2,
        tls,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// Waits until a node that can't join has logged a WARN that contains all `parts`; prints it.
async fn wait_warned(region: &Region, seat: usize, parts: &[&str]) {
    let what = format!("node {seat} warns of {parts:?}");
    eventually(&what, STATE_TIMEOUT, async || {
        let log = region.nodes[seat].log().text();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
        println!("{line}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_without_certificates_is_warned_that_its_peer_requires_them() {
    let mut region = start_one_of_two(true).await;
    region.nodes[1].flags.args.clear();
    region.launch(1, &StartMode::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["asks for certificates", "set rpc_cert, rpc_key and rpc_ca"],
    )
    .await;
}

#[tokio::test]
async fn a_router_without_certificates_is_warned_that_its_nodes_require_them() {
    let region = start_one_of_two(true).await;
    let router = Router::spawn(&[region.seat(0).rpc()], &[]);
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
async fn a_node_with_certificates_is_warned_that_its_peer_has_none() {
    let mut region = start_one_of_two(false).await;
    let certificates = Certificates::create(region.dir());
    let own = certificates.issue_node(region.seat(1).rpc().ip());
    region.nodes[1].flags.args = own;
    region.launch(1, &StartMode::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["speaks without certificates", "to all nodes and routers"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_reported() {
    let mut region = start_one_of_two(true).await;
    let other = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(other.path());
    let own = certificates.issue_node(region.seat(1).rpc().ip());
    region.nodes[1].flags.args = own;
    region.launch(1, &StartMode::Join(vec![0]));
    wait_warned(
        &region,
        1,
        &["signed by another CA: ", "certificates of one CA"],
    )
    .await;
}

#[tokio::test]
async fn a_name_that_the_certificate_lacks_is_reported() {
    let mut region = start_one_of_two(true).await;
    let member = &mut region.nodes[1];
    let detour = format!("elsewhere.example:7070={}", region.network.seats()[0].rpc());
    member.flags.rpc_via = detour;
    member.flags.start_args = vec!["--join".into(), "elsewhere.example:7070".into()];
    member.start();
    let host = region.seat(0).rpc().ip().to_string();
    let parts = ["another name", &host, "certs node elsewhere.example"];
    wait_warned(&region, 1, &parts).await;
}

#[tokio::test]
async fn a_port_that_is_not_for_nodes_is_reported() {
    for tls in [false, true] {
        let mut region = start_one_of_two(tls).await;
        for port in [region.seat(0).http(), region.seat(0).admin()] {
            let member = &mut region.nodes[1];
            member.flags.start_args = vec!["--join".into(), port.to_string()];
            member.start();
            let address = port.to_string();
            wait_warned(&region, 1, &[&address, "`rpc`"]).await;
            region.kill(1);
        }
    }
}

#[tokio::test]
async fn a_duplicate_address_is_reported_with_the_command_that_frees_it() {
    let mut region = Region::start().await;
    let lost = region.node_id(2).await;
    region.kill(2);
    region.launch_wiped(2);
    let address = region.seat(2).rpc();
    let conflict = format!("the rpc address {address} belongs to node {}", address.ip());
    let replace = format!("`cloudkv-node admin replace {}`", address.ip());
    wait_warned(&region, 2, &[&conflict, &replace]).await;
    region.replace_node(0, &lost).await;
    region.wait_listening(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_new_node_at_the_address_of_a_lost_one_is_reported_by_all_and_to_its_users() {
    let options = RegionOptions {
        tls: true,
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let lost = region.node_id(2).await;
    region.kill(2);
    region.launch_wiped(2);
    region.wait_listening(2).await;
    let address = region.seat(2).rpc();
    let waiting = "a new node waits at its address to join the cluster";
    let reason = format!(
        "{waiting}: the rpc address {address} belongs to node {} of region local",
        address.ip()
    );
    let replace = format!("`cloudkv-node admin replace {}`", address.ip());
    for seat in [0, 1] {
        eventually("the status has the reason", STATE_TIMEOUT, async || {
            let call = region.nodes[seat].admin_api().get("/status").unchecked();
            let status = call.try_send().await.ok()?.json();
            let mut nodes = status["nodes"].as_array()?.iter();
            let node = nodes.find(|node| node["rpc"] == address.to_string().as_str())?;
            let shown = node["unreachable_reason"].as_str()?;
            (shown.starts_with(&reason) && shown.contains(&replace)).then_some(())
        })
        .await;
        wait_warned(&region, seat, &[&reason, &replace]).await;
        let page = region.admin(seat, &["status"]).await.unwrap();
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains(waiting), "{page}");
    }
    // Its users are told where to look, and promised nothing.
    eventually("its users are refused", STATE_TIMEOUT, async || {
        let refused = region.api(2).get("/ping").unchecked();
        let refused = refused.try_send().await.ok()?;
        refused.assert_error(503, "starting");
        let text = refused.text();
        (text.contains("readiness probe") && !text.contains(&replace)).then_some(())
    })
    .await;
    region.replace_node(0, &lost).await;
    region.wait_ready(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn all_ports_in_use_are_reported_together() {
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut command = node_command();
    command.arg("--data-dir").arg(dir.path().join("data"));
    let mut parts = vec!["can't be bound: Address already in use".to_owned()];
    for (name, listener) in ["http", "rpc", "admin"].iter().zip(&listeners) {
        let address = listener.local_addr().unwrap().to_string();
        command.args([format!("--{name}"), address.clone()]);
        parts.push(format!("--{name} {address}"));
    }
    let refusal = run_to_exit(command).await;
    println!("{}", refusal.message);
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    refusal.assert_mentions(&parts);
}

#[tokio::test]
async fn an_admin_command_without_a_node_names_the_flags_to_set() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut command = node_command();
    command.args(["admin", "--admin", &address, "status"]);
    let refusal = run_to_exit(command).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    refusal.assert_mentions(&[&address, "Does the node run", "--admin", "--config"]);
}

#[tokio::test]
async fn the_admin_port_of_the_other_program_is_told_as_such() {
    let node = Node::start().await;
    let router = Router::start(&[node.rpc()]).await;
    let router_admin = router.admin_api().address().to_string();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["health"],
        &["health", "--ready"],
    ] {
        let mut command = node_command();
        command.args(["admin", "--admin", &router_admin]).args(args);
        let refusal = run_to_exit(command).await;
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        let read = format!("`admin {}` reads a node's", args[0]);
        refusal.assert_mentions(&["this is a router's admin port", &read]);
    }
    let mut command = router_command();
    let node_admin = node.admin_api().address().to_string();
    command.args(["--health", "--seeds", "127.0.0.1:1", "--admin", &node_admin]);
    let refusal = run_to_exit(command).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    refusal.assert_mentions(&["is a node's admin port, and not a router's"]);
}

#[tokio::test]
async fn a_readiness_check_of_another_port_tells_what_came_back_and_what_to_do() {
    let node = Node::start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = free.local_addr().unwrap();
    drop(free);
    for (port, response) in [
        (node.http(), "answered 404 Not Found and \"no such resource"),
        // It doesn't speak HTTP/1.1.
        (node.rpc(), "Does the router run?"),
        (refusing, "Connection refused"),
    ] {
        let mut command = router_command();
        let address = port.to_string();
        command.args(["--health", "--seeds", "127.0.0.1:1", "--admin", &address]);
        let refusal = run_to_exit(command).await;
        println!("{}", refusal.message);
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        refusal.assert_mentions(&["GET /readyz", &address, response]);
        refusal.assert_mentions(&["admin port", "--admin or CLOUDKV_ADMIN", "--config"]);
    }
}
