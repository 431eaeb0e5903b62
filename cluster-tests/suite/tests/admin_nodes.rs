//! Decommissioning nodes: the plan that is printed, refusals, and the removal itself.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::{NodeId, Region, RegionOptions};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

async fn region_of(nodes: usize) -> Region {
    let options = RegionOptions {
        nodes,
        seats: nodes,
        shards: 3,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// Returns a node's entry for another one in its `/status`.
async fn node_as_seen(region: &Region, seat: usize, id: &NodeId) -> Option<Value> {
    let call = region.nodes[seat].admin_api().get("/status").unchecked();
    let status = call.try_send().await.ok()?.json();
    let mut nodes = status["nodes"].as_array()?.iter();
    nodes
        .find(|node| node["id"].as_u64() == id.0.parse().ok())
        .cloned()
}

/// Waits until no group of these nodes has node `id` among its members.
async fn wait_removed(region: &Region, seats: &[usize], id: &NodeId) {
    eventually(
        "no group has the node as a member",
        STATE_TIMEOUT,
        async || {
            for seat in seats {
                let status = region.status(*seat).await?;
                let is_member = status.groups.iter().any(|group| {
                    group.voters.contains(id) || group.learners.contains(id) || group.changing
                });
                if is_member {
                    return None;
                }
            }
            Some(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_decommissioned_node_is_removed_and_exits() {
    let mut region = region_of(4).await;
    let bucket = region.api(3).create_bucket().await;
    region.api(3).put_numbered(&bucket, "", 20, "v").await;
    let id = region.node_id(3).await;
    let host = region.seat(3).rpc().ip().to_string();
    let output = region.admin(0, &["decommission", &host, "--wait"]).await;
    let output = output.expect("one of four can be decommissioned");
    println!("{output}");
    for part in [
        format!("with node {host}: the loss of any one node"),
        "without it: the loss of any one node".to_owned(),
        format!("node {host}: removed from the cluster"),
    ] {
        assert!(output.contains(&part), "{part}: {output}");
    }
    // Nobody stops it: it learns of its removal, and exits with 0.
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(region.nodes[3].log().text().contains("decommissioned"));
    wait_removed(&region, &[0, 1, 2], &id).await;
    for seat in 0..3 {
        let node = node_as_seen(&region, seat, &id)
            .await
            .expect("shown for an hour");
        assert_eq!(node["state"], "removed", "{node}");
        assert_eq!(region.api(seat).list(&bucket).await.len(), 20);
    }
    region.wait_formed().await;
    // Its data directory is refused from now on; with an empty one it can join.
    region.nodes[3].start();
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(
        region.nodes[3]
            .log()
            .text()
            .contains("was removed from the cluster")
    );
    let recommission = region.admin(0, &["recommission", &id.0]).await;
    assert!(recommission.unwrap_err().contains("was removed"));
    region.rejoin_wiped(3).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn decommissioning_one_of_three_needs_confirmation() {
    let mut region = region_of(3).await;
    let id = region.node_id(2).await;
    let host = region.seat(2).rpc().ip().to_string();
    let refused = region.admin(0, &["decommission", &host]).await;
    let refused = refused.expect_err("the region would survive no loss");
    println!("{refused}");
    for part in ["--yes", "the loss of any one node", "the loss of no node"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let node = node_as_seen(&region, 0, &id).await.unwrap();
    assert_eq!(node["state"], "active", "nothing has changed: {node}");
    let output = region
        .admin(1, &["decommission", &host, "--yes", "--wait"])
        .await
        .expect("confirmed with --yes");
    println!("{output}");
    for part in [
        "the loss of no node: a shard has one voter, which another node follows",
        "3 voters with it, by 1 voter without",
        "removed from the cluster",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert_eq!(region.wait_exit(2).await.code(), Some(0));
    wait_removed(&region, &[0, 1], &id).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn impossible_decommissions_are_refused_before_any_change() {
    let only = region_of(1).await;
    let id = only.node_id(0).await;
    let refused = only.admin(0, &["decommission", &id.0, "--yes"]).await;
    let refused = refused.expect_err("the only node");
    assert!(
        refused.contains("is the only one that takes shards"),
        "{refused}"
    );
    assert_eq!(
        node_as_seen(&only, 0, &id).await.unwrap()["state"],
        "active"
    );
    // Without the second node, a shard would depend on the third, which is dead.
    let mut region = region_of(3).await;
    region.kill(2);
    let dead = region.seat(2).rpc().ip().to_string();
    let id = region.node_id(1).await;
    eventually("it is refused", STATE_TIMEOUT, async || {
        let refused = region.admin(0, &["decommission", &id.0]).await;
        let refused = refused.expect_err("it would leave no majority, or survive less");
        let blocked = refused.contains(&format!("depend on {dead}"));
        blocked.then(|| println!("{refused}"))
    })
    .await;
    assert_eq!(
        node_as_seen(&region, 0, &id).await.unwrap()["state"],
        "active"
    );
    let unknown = region.admin(0, &["decommission", "nobody"]).await;
    assert!(unknown.unwrap_err().contains("node nobody is unknown"));
}
