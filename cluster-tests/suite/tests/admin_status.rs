//! An operator's view of a cluster: `cloudkv-node admin status`.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::node_command;
use cloudkv_test_harness::region::{MultiRegionCluster, Region, RegionOptions, StartMode};
use futures_util::future::join_all;
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Columns of a terminal.
const TERMINAL_COLUMNS: usize = 100;

/// A region of three, called n0 to n2.
async fn named_region() -> Region {
    let mut region = Region::prepare(RegionOptions::default());
    for seat in 0..3 {
        let name = ["--name".to_owned(), format!("n{seat}")];
        region.nodes[seat].flags.args.extend(name);
    }
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    for seat in 1..3 {
        region.launch(seat, &StartMode::Join(vec![0]));
    }
    join_all((1..3).map(|seat| region.wait_listening(seat))).await;
    region.wait_formed().await;
    region
}

/// Waits until the first line contains `part`; returns the page.
async fn wait_first_line(region: &Region, seat: usize, part: &str) -> String {
    let what = format!("the first line contains {part:?}");
    eventually(&what, STATE_TIMEOUT, async || {
        let page = region.admin(seat, &["status"]).await.ok()?;
        page.lines().next()?.contains(part).then_some(page)
    })
    .await
}

fn assert_readable(page: &str) {
    for line in page.lines() {
        assert!(line.chars().count() <= TERMINAL_COLUMNS, "{line}");
    }
    let is_long_number = |word: &str| word.len() > 9 && word.bytes().all(|it| it.is_ascii_digit());
    let number = page.split_whitespace().find(|word| is_long_number(word));
    assert_eq!(number, None, "{page}");
}

#[tokio::test]
async fn the_first_line_says_what_is_served_and_which_losses_it_survives() {
    let mut region = named_region().await;
    let page = wait_first_line(&region, 0, "it survives the loss of any one node").await;
    println!("{page}");
    assert!(
        page.starts_with("serving all 4 shards of region local; "),
        "{page}"
    );
    for name in ["n0", "n1", "n2"] {
        assert!(page.contains(name), "{name}: {page}");
    }
    assert_readable(&page);
    assert!(
        !page.contains("shard-0"),
        "healthy shards aren't listed: {page}"
    );
    let all = region.admin(0, &["status", "--verbose"]).await.unwrap();
    assert!(
        all.contains("shard-0") && all.contains("free; the log takes"),
        "{all}"
    );
    region.admin(0, &["status", "--check"]).await.unwrap();

    region.kill(2);
    let page = wait_first_line(&region, 0, "n2 is unreachable").await;
    println!("{page}");
    // A line that doesn't fit is broken between words.
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("the loss of one more node (n0 or n1) stops shards"),
        "{page}"
    );
    assert!(page.contains("`cloudkv-node admin replace n2`"), "{page}");
    assert_readable(&page);
    let checked = region.admin(0, &["status", "--check"]).await;
    let checked = checked.expect_err("a node is dead");
    assert!(checked.contains("needs an operator"), "{checked}");

    region.kill(1);
    let unreachable = "2 of 3 voters unreachable (n1, n2)";
    let page = wait_first_line(&region, 0, unreachable).await;
    println!("{page}");
    assert!(page.starts_with("not serving shard-"), "{page}");
    // Nothing can be replaced without majorities.
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("node n1 is unreachable") && text.contains("start it; "),
        "{page}"
    );
    assert!(!text.contains("admin replace"), "{page}");
    assert_readable(&page);
}

#[tokio::test]
async fn three_regions_of_three_fit_a_terminal() {
    let options = RegionOptions {
        shards: 3,
        ..RegionOptions::default()
    };
    let world =
        MultiRegionCluster::start_with(&["eu-west-3", "us-east-1", "ap-south-1"], 3, 3, options)
            .await;
    world.wait_ready(8).await;
    let page = wait_first_line(&world, 0, "it survives the loss of any one node").await;
    println!("{page}");
    assert_readable(&page);
    for seat in 0..9 {
        let host = world.seat(seat).rpc().ip().to_string();
        assert!(page.contains(&host), "{host}: {page}");
    }
}

#[tokio::test]
async fn the_status_can_be_watched() {
    let region = Region::start_with(RegionOptions {
        nodes: 1,
        seats: 1,
        ..RegionOptions::default()
    })
    .await;
    let path = region.dir().join("watched");
    let url = format!("http://{}", region.seat(0).admin());
    let mut watch = node_command()
        .args(["admin", "--admin", &url, "status", "--watch"])
        .stdout(File::create(&path).unwrap())
        .spawn()
        .unwrap();
    eventually("the status is printed twice", STATE_TIMEOUT, async || {
        let text = fs::read_to_string(&path).ok()?;
        (text.matches("serving all 4 shards").count() >= 2).then_some(())
    })
    .await;
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[tokio::test]
async fn a_watch_without_a_node_tells_since_when_and_what_to_do_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("watched");
    let mut watch = node_command()
        .args(["admin", "--admin", &address, "status", "--watch"])
        .stdout(File::create(&path).unwrap())
        .spawn()
        .unwrap();
    let text = eventually("it has failed twice", STATE_TIMEOUT, async || {
        let text = fs::read_to_string(&path).ok()?;
        (text.matches("no status since 20").count() >= 2).then_some(text)
    })
    .await;
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(text.matches("Does the node run").count(), 1, "{text}");
}

#[tokio::test]
async fn the_fields_that_programs_rely_on_are_there() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let status = eventually("the regions know each other", STATE_TIMEOUT, async || {
        let json = world.admin(0, &["status", "--json"]).await.ok()?;
        let status: Value = serde_json::from_str(&json).ok()?;
        let shards = status["regions"][1]["shards"].as_array()?.len();
        (shards > 0).then_some(status)
    })
    .await;
    for pointer in [
        "/node",
        "/survives",
        "/groups/0/group",
        "/groups/0/role",
        "/groups/0/voters",
        "/groups/0/learners",
        "/groups/0/lag",
        "/groups/0/purged",
        "/groups/0/last_log",
    ] {
        assert!(status.pointer(pointer).is_some(), "{pointer}: {status:#}");
    }
    assert_eq!(status["groups"][0]["group"], "meta");
    assert_eq!(status["groups"][1]["group"], "shard-0");
}
