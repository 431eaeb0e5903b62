//! Backups in S3: against moto's server, through faults.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cloudkv_test_harness::backup::{
    SavedBucket, back_up, backup_command, fill_buckets, list_command, restore_command,
};
use cloudkv_test_harness::load::fill;
use cloudkv_test_harness::moto::{AccessKey, MotoServer, s3_env};
use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::{
    CommandOutput, Node, NodeOptions, RunningCommand, TcpGate, eventually, run_command,
};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const BUCKET: &str = "backups";
const URL: &str = "s3://backups/some/folder";
/// Where the objects of [`URL`] are.
const PREFIX: &str = "some/folder/";

/// Starts moto with a bucket; says so if it isn't installed.
async fn start_moto() -> Option<MotoServer> {
    let moto = MotoServer::start().await;
    match &moto {
        Some(moto) => moto.create_bucket(BUCKET).await,
        None => println!("skipped: moto (not installed: scripts/setup test installs it)"),
    }
    moto
}

/// Variable of an environment.
type Variable = (String, String);

/// A key that a server which doesn't check keys accepts.
fn any_key() -> AccessKey {
    AccessKey::new("AKIAEXAMPLE", "secret-of-the-example")
}

async fn start_node(env: &[Variable]) -> Node {
    let options = NodeOptions {
        env: env.to_vec(),
        ..NodeOptions::default()
    };
    Node::start_with(options).await
}

async fn run(mut command: Command, env: &[Variable]) -> CommandOutput {
    command.envs(env.iter().cloned());
    run_command(command).await
}

async fn list(env: &[Variable], args: &[&str]) -> CommandOutput {
    run(list_command(URL, args), env).await
}

async fn restore(env: &[Variable], data_dir: &Path) -> CommandOutput {
    run(restore_command(URL, data_dir, &[]), env).await
}

/// Restores the backup into another cluster, and compares all keys.
async fn assert_restored(env: &[Variable], saved: &[SavedBucket]) {
    let mut restored = Region::prepare(RegionOptions {
        nodes: 1,
        seats: 1,
        shards: 8,
        ..RegionOptions::default()
    });
    let output = restore(env, &restored.nodes[0].data_dir()).await;
    println!("{}", output.assert_success());
    restored.nodes[0].start();
    restored.wait_listening(0).await;
    restored.wait_ready(0).await;
    for bucket in saved {
        bucket.assert_restored(&restored.api(0)).await;
    }
}

#[tokio::test]
async fn a_backup_in_s3_is_listed_verified_and_restored() {
    let Some(moto) = start_moto().await else {
        return;
    };
    let env = s3_env(moto.address(), &any_key());
    let node = start_node(&env).await;
    let saved = fill_buckets(&node.api()).await;
    let output = back_up(node.admin_api().address(), URL, &[]).await;
    println!("{}", output.assert_success());
    drop(node);
    let names = moto.object_names(BUCKET).await;
    assert!(names.iter().all(|name| name.starts_with(PREFIX)));
    let id = names[0][PREFIX.len()..].split('/').next().unwrap();
    let listed = list(&env, &["--verify"]).await;
    listed.assert_success().assert_mentions(&[id, "complete"]);
    let listed: Value = list(&env, &["--json"]).await.assert_success().json();
    assert!(listed.to_string().contains(id), "{listed}");
    assert_restored(&env, &saved).await;

    // A part that is gone, and one that something else has overwritten.
    let is_part = |name: &&String| name.ends_with(".zst");
    let part = names.iter().rfind(is_part).unwrap();
    let intact = moto.read_object(BUCKET, part).await;
    for damage in [None, Some(vec![b'x'; intact.len()])] {
        match damage {
            Some(bytes) => moto.write_object(BUCKET, part, bytes).await,
            None => moto.delete_object(BUCKET, part).await,
        }
        let name = part.split_once(&format!("{id}/")).unwrap().1;
        let verified = list(&env, &["--verify"]).await;
        println!("{verified}");
        verified.assert_failure().assert_mentions(&[name]);
        let dir = tempfile::tempdir().unwrap();
        let refused = restore(&env, &dir.path().join("data")).await;
        refused.assert_failure().assert_mentions(&[name]);
    }
    moto.write_object(BUCKET, part, intact).await;
    list(&env, &["--verify"]).await.assert_success();
}

#[tokio::test]
async fn wrong_keys_and_buckets_are_named() {
    let Some(moto) = start_moto().await else {
        return;
    };
    let node = start_node(&s3_env(moto.address(), &any_key())).await;
    let admin = node.admin_api().address();
    let unknown = "s3://no-such-bucket/folder";
    let refused = back_up(admin, unknown, &[]).await;
    println!("{refused}");
    refused
        .assert_failure()
        .assert_mentions(&["no-such-bucket"]);
    drop(node);

    let right = moto.create_key().await;
    moto.check_keys().await;
    let wrong_secret = AccessKey::new(&right.id, "another-secret-of-the-example");
    for key in [any_key(), wrong_secret] {
        let env = s3_env(moto.address(), &key);
        let node = start_node(&env).await;
        let refused = back_up(node.admin_api().address(), URL, &[]).await;
        println!("{refused}");
        refused
            .assert_failure()
            .assert_mentions(&["AWS_SECRET_ACCESS_KEY"]);
        let text = refused.text();
        assert!(!text.contains(&key.secret), "a secret is printed: {text}");
        assert!(!node.log_text().contains(&key.secret), "or logged");
        let refused = list(&env, &[]).await;
        refused
            .assert_failure()
            .assert_mentions(&["AWS_SECRET_ACCESS_KEY"]);
    }
}

#[tokio::test]
async fn a_server_that_is_cut_off_is_used_again_by_the_job_or_by_the_same_command() {
    let Some(moto) = start_moto().await else {
        return;
    };
    let gate = TcpGate::start(moto.address()).await;
    let env = s3_env(gate.address(), &any_key());
    let node = start_node(&env).await;
    let admin = node.admin_api().address();
    let bucket = node.api().create_bucket_with(&[("plan", "business")]).await;
    fill(&[node.http()], &bucket, 8, 600, 8000).await.unwrap();
    let saved = [SavedBucket::read(&node.api(), &bucket).await];
    // Several shards are complete then, and one is under way.
    gate.close_after(2_500_000);
    let command = backup_command(admin, URL, &[]);
    let running = RunningCommand::start(command);
    eventually("the server is missed", STATE_TIMEOUT, async || {
        (gate.refused_count() > 0).then_some(())
    })
    .await;
    assert!(!gate.is_open());
    let names = moto.object_names(BUCKET).await;
    let has_end = |end: &str| names.iter().any(|name| name.ends_with(end));
    assert!(
        has_end("/shard.json") && !has_end("/manifest.json"),
        "{names:?}"
    );
    gate.open();
    let first = running.wait().await;
    println!("{first}");
    if first.code != Some(0) {
        first.assert_mentions(&["run the same command again"]);
        back_up(admin, URL, &[]).await.assert_success();
    }
    let listed = list(&env, &["--verify"]).await;
    listed.assert_success();
    drop(node);
    assert_restored(&env, &saved).await;
}
