//! Nodes join a region in any order, and refuse those that don't belong to it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::{Region, RegionOptions, StartMode};
use cloudkv_test_harness::{StartupFailure, run_to_exit};
use futures_util::future::join_all;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

fn nodes_and_seats(nodes: usize, seats: usize) -> RegionOptions {
    RegionOptions {
        nodes,
        seats,
        ..RegionOptions::default()
    }
}

#[tokio::test]
async fn nodes_join_at_once_and_in_any_order_and_again_after_a_restart() {
    let mut region = Region::prepare(nodes_and_seats(5, 5));
    // Their join addresses don't listen yet, or are joining themselves.
    for (seat, join) in [
        (3, vec![4, 0]),
        (4, vec![0]),
        (1, vec![3, 0]),
        (2, vec![0, 1]),
    ] {
        region.launch(seat, &StartMode::Join(join));
    }
    region.launch(0, &StartMode::Bootstrap);
    join_all((0..5).map(|seat| region.wait_listening(seat))).await;
    region.wait_formed().await;
    let bucket = region.api(3).create_bucket().await;
    region
        .api(4)
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    let ids = join_all((0..5).map(|seat| region.node_id(seat))).await;
    // All at once, `--init` included.
    for seat in 0..5 {
        region.kill(seat);
    }
    for seat in [2, 4, 0, 1, 3] {
        region.nodes[seat].start();
    }
    join_all((0..5).map(|seat| region.wait_listening(seat))).await;
    region.wait_formed().await;
    assert_eq!(join_all((0..5).map(|seat| region.node_id(seat))).await, ids);
    let get = region.api(1).get(&bucket.key_path("k")).await;
    assert_eq!(get.assert_status(200).text(), "v");
    region.wait_converged().await;
}

#[tokio::test]
async fn a_second_node_is_a_learner_and_a_third_makes_three_voters() {
    let mut region = Region::start_with(nodes_and_seats(1, 3)).await;
    let bucket = region.api(0).create_bucket().await;
    region.api(0).put_numbered(&bucket, "", 20, "v").await;
    region.launch(1, &StartMode::Join(vec![0]));
    region.wait_listening(1).await;
    region.wait_formed().await;
    eventually(
        "the second node is a learner of all shards",
        STATE_TIMEOUT,
        async || {
            let statuses = region.statuses().await;
            let groups = statuses.values().flat_map(|status| &status.groups);
            let mut led = groups.filter(|group| group.is_leader() && group.is_shard());
            led.all(|group| (group.voters.len(), group.learners.len()) == (1, 1))
                .then_some(())
        },
    )
    .await;
    region.launch(2, &StartMode::Join(vec![1]));
    region.wait_listening(2).await;
    region.wait_formed().await;
    for seat in 0..3 {
        assert_eq!(region.api(seat).list(&bucket).await.len(), 20);
    }
    region.wait_converged().await;
}

#[tokio::test]
async fn a_node_is_shown_with_its_name_as_soon_as_it_is_admitted() {
    let mut region = Region::start_with(nodes_and_seats(1, 2)).await;
    let name = ["--name".to_owned(), "second".to_owned()];
    region.nodes[1].flags.args.extend(name);
    let rpc = region.seat(1).rpc().to_string();
    region.launch(1, &StartMode::Join(vec![0]));
    let first_shown = eventually("the new node is shown", STATE_TIMEOUT, async || {
        let call = region.nodes[0].admin_api().get("/status").unchecked();
        let status = call.try_send().await.ok()?.json();
        let mut nodes = status["nodes"].as_array()?.iter();
        let node = nodes.find(|node| node["rpc"] == rpc.as_str())?;
        node["name"].as_str().map(str::to_owned)
    });
    assert_eq!(first_shown.await, "second");
    region.wait_listening(1).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() {
    let mut ours = Region::start_with(nodes_and_seats(1, 2)).await;
    let mut theirs = Region::start_with(nodes_and_seats(1, 1)).await;
    theirs.terminate(0).await;
    // A node with the other cluster's data that is told to join this one.
    let join = format!("{}", ours.seat(0).rpc());
    let member = &mut theirs.nodes[0];
    member.flags.start_args = vec!["--join".into(), join];
    let refusal = run_to_exit(member.command()).await;
    assert!(refusal.code.is_some_and(|code| code != 0), "{refusal:?}");
    refusal.assert_mentions(&["cluster"]);
    // Both clusters are unchanged.
    let bucket = ours.api(0).create_bucket().await;
    ours.api(0)
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    assert_eq!(ours.wait_status(0).await.groups[0].voters.len(), 1);
    theirs.nodes[0].flags.start_args = vec!["--init".into()];
    theirs.restart(0).await;
    theirs.wait_formed().await;
    ours.kill(0);
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let mut region = Region::start_with(nodes_and_seats(1, 2)).await;
    region.nodes[1].flags.shards = region.shards() * 2;
    region.nodes[1].flags.start_args = vec!["--join".into(), region.seat(0).rpc().to_string()];
    let refusal = run_to_exit(region.nodes[1].command()).await;
    assert!(refusal.code.is_some_and(|code| code != 0), "{refusal:?}");
    refusal.assert_mentions(&["shards"]);
    region.nodes[0].send_sigterm();
    region.wait_exit(0).await;
}

/// Starts a node with an empty disk and this region, which must be refused.
async fn refused_in_region(region: &mut Region, name: &str) -> StartupFailure {
    let member = &mut region.nodes[1];
    member.flags.region = name.into();
    let refusal = run_to_exit(member.command()).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    refusal
}

#[tokio::test]
async fn an_unintended_region_is_not_started_and_a_new_one_is_logged() {
    let mut region = Region::prepare(nodes_and_seats(1, 3));
    region.nodes[0].flags.region = "frankfurt".into();
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    region.wait_ready(0).await;
    let join = vec!["--join".to_owned(), region.seat(0).rpc().to_string()];
    region.nodes[1].flags.start_args = join;
    // The flag was forgotten: its default is no region of this cluster.
    let refusal = refused_in_region(&mut region, "").await;
    refusal.assert_mentions(&["--region", "local", "frankfurt"]);
    let refusal = refused_in_region(&mut region, "frankfrut").await;
    refusal.assert_mentions(&["frankfrut", "one slip", "frankfurt"]);
    let regions = async |region: &Region| {
        let status = region.nodes[0].admin_api().get("/status").unchecked();
        status.await.json()["regions"].clone()
    };
    assert_eq!(regions(&region).await.as_array().unwrap().len(), 1);

    // The same directory, with an intended name.
    region.nodes[1].flags.region = "frankfurt-2".into();
    region.launch(1, &StartMode::Join(vec![0]));
    region.wait_listening(1).await;
    region.wait_ready(1).await;
    let log = region.nodes[1].log().text();
    let line = log
        .lines()
        .find(|line| line.contains("starts a new region"));
    let line = line.expect("the node that starts a region logs it");
    assert!(
        line.contains("WARN") && line.contains("frankfurt-2"),
        "{line}"
    );
    let rpc = region.seat(1).rpc().to_string();
    eventually("the others log it", STATE_TIMEOUT, async || {
        let log = region.nodes[0].log().text();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("a new region joins the cluster"))?;
        assert!(
            line.contains("WARN") && line.contains("frankfurt-2"),
            "{line}"
        );
        Some(())
    })
    .await;
    let all = regions(&region).await;
    assert_eq!(all[1]["name"], "frankfurt-2");
    assert!(
        all[1]["started_by"].as_str().unwrap().starts_with(&rpc),
        "{all}"
    );
    // An existing region is joined.
    region.nodes[2].flags.region = "frankfurt".into();
    region.launch(2, &StartMode::Join(vec![0]));
    region.wait_listening(2).await;
    region.wait_ready(2).await;
    assert_eq!(regions(&region).await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_keeps_its_identity_and_its_region() {
    let mut region = Region::prepare(nodes_and_seats(1, 1));
    region.nodes[0].flags.region = "frankfurt".into();
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    let id = region.node_id(0).await;
    region.terminate(0).await;
    region.nodes[0].flags.region = "elsewhere".into();
    let refusal = run_to_exit(region.nodes[0].command()).await;
    assert!(refusal.code.is_some_and(|code| code != 0), "{refusal:?}");
    refusal.assert_mentions(&["region", "elsewhere", "frankfurt"]);
    // Without the flag the region is unchanged.
    for name in ["frankfurt", ""] {
        region.nodes[0].flags.region = name.into();
        region.restart(0).await;
        region.wait_ready(0).await;
        let status = region.wait_status(0).await;
        assert_eq!((&status.node, status.region.as_str()), (&id, "frankfurt"));
        region.terminate(0).await;
    }
}

#[tokio::test]
async fn another_cluster_at_the_address_of_a_node_is_reported() {
    let mut region = Region::start().await;
    region.kill(0);
    // Its disk is lost, and it creates another cluster.
    std::fs::remove_dir_all(region.nodes[0].data_dir()).unwrap();
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    region.wait_ready(0).await;
    let status = async |region: &Region, seat: usize| {
        let call = region.nodes[seat].admin_api().get("/status").unchecked();
        call.await.json()
    };
    let other = status(&region, 0).await["cluster"].clone();
    let other = other.as_str().unwrap().to_owned();
    let address = region.seat(0).rpc().to_string();
    for seat in [1, 2] {
        eventually("the log names the cluster", STATE_TIMEOUT, async || {
            let log = region.nodes[seat].log().text();
            let mut lines = log.lines();
            let message = "another cluster answers at its address";
            let line = lines.find(|line| line.contains(message))?;
            let names_both = line.contains(&other) && line.contains(&address);
            assert!(line.contains("WARN") && names_both, "{line}");
            Some(())
        })
        .await;
        eventually("the status names the cluster", STATE_TIMEOUT, async || {
            let status = status(&region, seat).await;
            let mut nodes = status["nodes"].as_array()?.iter();
            let node = nodes.find(|node| node["rpc"] == address.as_str())?;
            let reason = node["unreachable_reason"].as_str()?;
            let expected = format!("another cluster answers at its address: {other}");
            (reason == expected).then_some(())
        })
        .await;
        let page = region.admin(seat, &["status"]).await.unwrap();
        assert!(page.contains(&other), "{page}");
    }
}
