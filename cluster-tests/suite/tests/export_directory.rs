//! `admin export-directory`: what a stopped node's directory has and other regions lack, as lines
//! of an import.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use cloudkv_test_harness::backup::{assert_same_keys, copy_keys};
use cloudkv_test_harness::region::{MultiRegionCluster, Region, RegionOptions};
use cloudkv_test_harness::transfer::{import_lines, parse_line};
use cloudkv_test_harness::{Bucket, CommandOutput, eventually, node_command, run_command};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of keys with each prefix.
const KEYS: u64 = 10;

async fn export_directory(data_dir: &Path, to: &Path, args: &[&str]) -> CommandOutput {
    let mut command = node_command();
    command.args(["admin", "export-directory", "--data-dir"]);
    command.arg(data_dir).arg("--to").arg(to).args(args);
    run_command(command).await
}

/// Returns the lines of a bucket, in a directory that holds those of no other one.
fn exported_lines(to: &Path, bucket: &Bucket) -> Vec<Value> {
    let names = fs::read_dir(to).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let name = format!("{}.ndjson", bucket.id);
    assert_eq!(names, [name.as_str()]);
    let path = to.join(name);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "users' data is the operator's alone");
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(parse_line).collect()
}

/// Returns the keys of lines, each with true if the line deletes it.
fn keys_of(lines: &[Value]) -> BTreeSet<(String, bool)> {
    let key = |line: &Value| line["key"].as_str().unwrap().to_owned();
    lines
        .iter()
        .map(|line| (key(line), line["op"] == "delete"))
        .collect()
}

fn numbered(prefix: &str) -> impl Iterator<Item = String> {
    (0..KEYS).map(move |number| format!("{prefix}{number}"))
}

async fn put(world: &MultiRegionCluster, seat: usize, bucket: &Bucket, prefix: &str, value: &str) {
    world
        .api(seat)
        .put_numbered(bucket, prefix, KEYS, value)
        .await;
}

async fn delete(world: &MultiRegionCluster, seat: usize, bucket: &Bucket, prefix: &str) {
    for name in numbered(prefix) {
        let path = bucket.key_path(&name);
        world.api(seat).delete(&path).await.assert_status(200);
    }
}

/// Values of a bucket's keys, by their names.
async fn values(
    world: &MultiRegionCluster,
    region: usize,
    bucket: &Bucket,
) -> BTreeMap<String, String> {
    let values = world.bucket_values(region, bucket).await.unwrap();
    let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
    values
        .into_iter()
        .map(|(name, (_, value))| (name, text(value)))
        .collect()
}

async fn wait_removed(world: &MultiRegionCluster, seat: usize, region: &str) {
    eventually("the region is removed", STATE_TIMEOUT, async || {
        let call = world.nodes[seat].admin_api().get("/status").unchecked();
        let status = call.try_send().await.ok()?.json();
        let mut regions = status["regions"].as_array()?.iter();
        let is_known = regions.any(|it| it["name"] == region);
        (!is_known).then_some(())
    })
    .await;
}

/// Two regions of a node, and a bucket whose keys both have. The second one is cut off.
async fn isolated_region(prefixes: &[&str]) -> (MultiRegionCluster, Bucket) {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    for prefix in prefixes {
        put(&world, 0, &bucket, prefix, "old").await;
    }
    world.wait_bucket_converged(&bucket).await;
    world.wait_no_retained_changes().await;
    world.isolate_region(1);
    (world, bucket)
}

/// Makes changes in both regions, which can't reach each other: the other region's later.
async fn write_apart(world: &MultiRegionCluster, bucket: &Bucket) {
    put(world, 1, bucket, "created", "us").await;
    put(world, 1, bucket, "passing", "us").await;
    for prefix in ["changed", "later"] {
        put(world, 1, bucket, prefix, "us").await;
    }
    for prefix in ["deleted", "gone", "passing"] {
        delete(world, 1, bucket, prefix).await;
    }
    // The other region goes on, and some of its changes are later.
    put(world, 0, bucket, "later", "eu").await;
    delete(world, 0, bucket, "gone").await;
    put(world, 0, bucket, "gone", "back").await;
    put(world, 0, bucket, "other", "eu").await;
}

#[tokio::test]
async fn what_a_lost_region_had_not_sent_is_imported_where_nothing_newer_exists() {
    let prefixes = ["same", "changed", "deleted", "later", "gone"];
    let (mut world, bucket) = isolated_region(&prefixes).await;
    write_apart(&world, &bucket).await;
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("lines");
    let dir = world.nodes[1].data_dir();
    let running = export_directory(&dir, &to, &[]).await;
    running.assert_failure().assert_mentions(&["is in use"]);
    world.kill(1);
    world.admin_with_retries(0, &["remove-region", "us"]).await;
    wait_removed(&world, 0, "us").await;

    let exported = export_directory(&dir, &to, &[]).await;
    println!("{exported}");
    exported.assert_success();
    exported.assert_mentions(&["lines of 1 buckets", "mode=newer"]);
    let lines = exported_lines(&to, &bucket);
    let written = ["created", "changed", "later"];
    let written = written.into_iter().flat_map(numbered);
    let deleted = ["deleted", "gone", "passing"]
        .into_iter()
        .flat_map(numbered);
    let expected: BTreeSet<_> = written
        .map(|key| (key, false))
        .chain(deleted.map(|key| (key, true)))
        .collect();
    assert_eq!(keys_of(&lines), expected);

    let again = export_directory(&dir, &to, &[]).await;
    again.assert_failure().assert_mentions(&["isn't empty"]);
    // It is the same each time: the directory isn't changed.
    let second = target.path().join("second");
    export_directory(&dir, &second, &[]).await.assert_success();
    assert_eq!(keys_of(&exported_lines(&second, &bucket)), expected);

    let end = import_lines(&world.api(0), &bucket, "?mode=newer", &lines).await;
    assert_eq!(end["failed"], 0, "{end}");
    assert_eq!(end["imported"], 3 * KEYS, "{end}");
    let mut expected = BTreeMap::new();
    for (prefix, value) in [
        ("same", "old"),
        ("changed", "us"),
        ("created", "us"),
        ("later", "eu"),
        ("gone", "back"),
        ("other", "eu"),
    ] {
        expected.extend(numbered(prefix).map(|name| (name, value.to_owned())));
    }
    assert_eq!(values(&world, 0, &bucket).await, expected);
    let end = import_lines(&world.api(0), &bucket, "?mode=newer", &lines).await;
    assert_eq!(end["imported"], 0, "{end}");
    assert_eq!(end["failed"], 0, "{end}");
    assert_eq!(values(&world, 0, &bucket).await, expected);

    // Deletions depend on versions, so other imports have none.
    let deletion = lines.iter().find(|line| line["op"] == "delete").unwrap();
    let deletion = std::slice::from_ref(deletion);
    let end = import_lines(&world.api(0), &bucket, "", deletion).await;
    assert_eq!(end["failed"], 1, "{end}");
}

#[tokio::test]
async fn a_region_that_was_fenced_is_exported_too() {
    let (mut world, bucket) = isolated_region(&["k"]).await;
    world.expect_errors(&["removed from the cluster"]);
    put(&world, 1, &bucket, "k", "us").await;
    put(&world, 1, &bucket, "unsent", "us").await;
    world.admin_with_retries(0, &["remove-region", "us"]).await;
    wait_removed(&world, 0, "us").await;
    world.network.heal();
    world.wait_exit(1).await;
    assert_eq!(values(&world, 0, &bucket).await.len() as u64, KEYS);

    let target = tempfile::tempdir().unwrap();
    let dir = world.nodes[1].data_dir();
    let exported = export_directory(&dir, target.path(), &[]).await;
    exported.assert_success();
    let lines = exported_lines(target.path(), &bucket);
    assert_eq!(lines.len() as u64, 2 * KEYS);
    let end = import_lines(&world.api(0), &bucket, "?mode=newer", &lines).await;
    assert_eq!(end["imported"], 2 * KEYS, "{end}");
    let values = values(&world, 0, &bucket).await;
    assert_eq!(values.len() as u64, 2 * KEYS);
    assert!(values.values().all(|value| value == "us"), "{values:?}");
}

#[tokio::test]
async fn all_keys_of_a_stopped_node_are_exported_and_it_goes_on() {
    let mut region = Region::start_with(RegionOptions {
        nodes: 1,
        seats: 1,
        ..RegionOptions::default()
    })
    .await;
    let api = region.api(0);
    let bucket = api.create_bucket().await;
    api.put_numbered(&bucket, "k", 50, "v").await;
    let path = bucket.key_path("full?ttl=1d");
    let full = api.put(&path, vec![0, 255, 10]);
    let full = full.header("content-type", "image/png");
    let full = full.header("x-cloudkv-metadata", r#"{"a":1}"#);
    full.await.assert_status(200);
    let deleted = bucket.key_path("k0");
    api.delete(&deleted).await.assert_status(200);
    let dropped = api.create_bucket().await;
    api.put_numbered(&dropped, "k", 5, "v").await;
    eventually("a bucket is deleted", STATE_TIMEOUT, async || {
        let delete = api.delete(&format!("{}?confirm=5", dropped.path()));
        let answer = delete.api_key(&dropped.account).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let keys = copy_keys(&api, &bucket).await;
    // A crash: the log has what the state lacks.
    region.kill(0);

    let target = tempfile::tempdir().unwrap();
    let (dir, to) = (region.nodes[0].data_dir(), target.path());
    let refused = export_directory(&dir, to, &[]).await;
    refused.assert_failure().assert_mentions(&["--all"]);
    let nothing = export_directory(to, &to.join("lines"), &["--all"]).await;
    nothing.assert_failure().assert_mentions(&["identity.json"]);
    let to = to.join("all");
    let exported = export_directory(&dir, &to, &["--all"]).await;
    exported.assert_success();
    let lines = exported_lines(&to, &bucket);
    assert_eq!(lines.len(), keys.len());

    region.restart(0).await;
    region.wait_formed().await;
    assert_same_keys(&copy_keys(&api, &bucket).await, &keys);
    // Into another bucket: the same but for the versions.
    let second = api.create_bucket().await;
    let end = import_lines(&api, &second, "", &lines).await;
    assert_eq!(end["imported"], lines.len(), "{end}");
    let without_version = |mut line: Value| {
        line.as_object_mut().unwrap().remove("version");
        line
    };
    let [imported, keys] = [copy_keys(&api, &second).await, keys].map(|keys| {
        let lines = keys.into_iter();
        lines
            .map(|(name, line)| (name, without_version(line)))
            .collect()
    });
    assert_same_keys(&imported, &keys);
}
