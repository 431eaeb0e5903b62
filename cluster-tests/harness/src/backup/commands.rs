//! Commands that make, list and restore backups.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::command::{CommandOutput, run_command};
use crate::node::node_command;
use crate::region::{MultiRegionCluster, RegionOptions};

/// Returns the command that has the node with this admin port make a backup.
pub fn backup_command(admin: SocketAddr, url: &str, args: &[&str]) -> Command {
    let mut command = node_command();
    command.args(["admin", "--admin", &admin.to_string(), "backup"]);
    command.args(["--to", url]).args(args);
    command
}

/// Makes a backup at the node with this admin port.
pub async fn back_up(admin: SocketAddr, url: &str, args: &[&str]) -> CommandOutput {
    run_command(backup_command(admin, url, args)).await
}

/// First and last line of what a node tells of a backup that has become complete.
#[derive(Clone, Debug)]
pub struct CompletedBackup {
    /// Its ID.
    pub id: String,
    /// True if it was begun before.
    pub is_resumed: bool,
    /// Number of shards that were complete before.
    pub kept_shards: u64,
    /// Number of its records.
    pub records: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

impl CompletedBackup {
    /// Reads the output of a command with `--json`.
    ///
    /// # Panics
    /// Panics if the backup isn't complete.
    #[track_caller]
    pub fn from_output(output: &CommandOutput) -> Self {
        let lines = output.assert_success().json_lines();
        let (Some(begin), Some(end)) = (lines.first(), lines.last()) else {
            panic!("nothing is told: {output}");
        };
        assert_eq!(end["end"], true, "{output}");
        assert_eq!(begin["id"], end["id"], "{output}");
        let number = |line: &Value, field: &str| match line[field].as_u64() {
            Some(number) => number,
            None => panic!("no {field}: {line}"),
        };
        Self {
            id: end["id"].as_str().expect("an ID").to_owned(),
            is_resumed: begin["resumed"].as_bool().expect("true or false"),
            kept_shards: number(begin, "kept_shards"),
            records: number(end, "records"),
            bytes: number(end, "bytes"),
        }
    }
}

/// Returns the command that lists backups.
pub fn list_command(url: &str, args: &[&str]) -> Command {
    let mut command = node_command();
    command.args(["admin", "backups", "--at", url]).args(args);
    command
}

/// Lists backups.
pub async fn list_backups(url: &str, args: &[&str]) -> CommandOutput {
    run_command(list_command(url, args)).await
}

/// Returns the command that restores a backup into a directory.
pub fn restore_command(url: &str, data_dir: &Path, args: &[&str]) -> Command {
    let mut command = node_command();
    command.args(["restore", "--from", url, "--data-dir"]);
    command.arg(data_dir).args(args);
    command
}

/// Restores a backup into a directory.
pub async fn restore(url: &str, data_dir: &Path, args: &[&str]) -> CommandOutput {
    run_command(restore_command(url, data_dir, args)).await
}

/// Restores a backup into the first node of a new cluster, starts that node, and lets others join
/// until the first region has `each`. `args` are those of the restore. Other regions of `names` can
/// be started later.
///
/// # Panics
/// Panics if the backup isn't restored.
pub async fn start_restored(
    url: &str,
    names: &[&str],
    each: usize,
    shards: u32,
    args: &[&str],
) -> MultiRegionCluster {
    let options = RegionOptions {
        shards,
        ..RegionOptions::default()
    };
    let mut cluster = MultiRegionCluster::start_with(names, each, 0, options).await;
    let restored = restore(url, &cluster.nodes[0].data_dir(), args).await;
    println!("{}", restored.assert_success());
    cluster.start_region(0).await;
    cluster.wait_serving(0).await;
    cluster
}
