//! Backups that were interrupted: they aren't complete, and the same command goes on with them.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use cloudkv_test_harness::backup::{
    BackupFolder, CompletedBackup, SavedBucket, backup_command, list_backups, restore,
    start_restored,
};
use cloudkv_test_harness::load::fill;
use cloudkv_test_harness::region::Region;
use cloudkv_test_harness::{CommandOutput, RunningCommand, eventually, run_command};
use rustix::process::{Pid, Signal, kill_process};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Number and size of the keys.
const KEYS: u64 = 400;
const VALUE_BYTES: usize = 16_000;
/// Bytes per second at which the node that makes the backup reads shards at other nodes: one of
/// them takes several seconds.
const READ_RATE: u64 = 300_000;
/// What is said after an interruption.
const HINT: &str = "run the same command again";

/// A region of three whose node at `seat` makes backups slowly.
struct SlowBackups {
    region: Region,
    seat: usize,
    folder: BackupFolder,
    saved: SavedBucket,
}

impl SlowBackups {
    async fn start() -> Self {
        let region = Region::start().await;
        region.wait_leaders_balanced().await;
        let plan = [("plan", "business")];
        let bucket = region.api(0).create_bucket_with(&plan).await;
        let nodes = region.http_addresses(0..3);
        fill(&nodes, &bucket, 8, KEYS, VALUE_BYTES).await.unwrap();
        let saved = SavedBucket::read(&region.api(0), &bucket).await;
        assert_eq!(saved.key_count() as u64, KEYS);
        let slow = Self {
            region,
            seat: 0,
            folder: BackupFolder::create(),
            saved,
        };
        slow.throttle();
        slow
    }

    fn throttle(&self) {
        for other in (0..3).filter(|other| *other != self.seat) {
            self.region.network.shape(self.seat, other, |link| {
                link.replies.bytes_per_sec = READ_RATE;
            });
        }
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let admin = self.region.seat(self.seat).admin();
        backup_command(admin, &self.folder.url(), &[&["--json"][..], args].concat())
    }

    /// Begins a backup, and waits until it has some shards, but not all. Returns its ID, too.
    async fn begin(&self, args: &[&str]) -> (RunningCommand, String) {
        let known = self.folder.ids();
        let running = RunningCommand::start(self.command(args));
        let id = eventually("a shard is complete", STATE_TIMEOUT, async || {
            let ids = self.folder.ids().into_iter();
            let id = ids.filter(|id| !known.contains(id)).max()?;
            (!self.folder.complete_shards(&id).is_empty()).then_some(id)
        })
        .await;
        assert!(self.folder.complete_shards(&id).len() < 4);
        (running, id)
    }

    /// Runs the command, again while the node hasn't noticed the end of the last one.
    async fn complete(&self, args: &[&str]) -> CompletedBackup {
        let output = eventually("a backup begins", STATE_TIMEOUT, async || {
            let output = run_command(self.command(args)).await;
            let is_refused = output.code != Some(0) && output.text().contains("409");
            (!is_refused).then_some(output)
        })
        .await;
        CompletedBackup::from_output(&output)
    }

    /// Returns the files of the complete shards of a backup, and when each was written.
    fn kept_files(&self, id: &str) -> BTreeMap<String, SystemTime> {
        let mut files = BTreeMap::new();
        for shard in self.folder.complete_shards(id) {
            for entry in fs::read_dir(self.folder.file(id, &shard)).unwrap() {
                let entry = entry.unwrap();
                let written = entry.metadata().unwrap().modified().unwrap();
                files.insert(format!("{shard}/{:?}", entry.file_name()), written);
            }
        }
        files
    }

    /// Asserts that a backup is listed as incomplete, and isn't restored.
    async fn assert_incomplete(&self, id: &str) {
        assert!(!self.folder.is_complete(id));
        let listed = list_backups(&self.folder.url(), &["--id", id]).await;
        let listed = listed.assert_success();
        listed.assert_mentions(&[id, "incomplete"]);
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let refused = restore(&self.folder.url(), &data_dir, &["--id", id]).await;
        refused.assert_failure().assert_mentions(&["complete"]);
    }

    /// Restores a backup into another cluster, and compares all keys.
    async fn assert_restored(self, id: &str) {
        let verified = list_backups(&self.folder.url(), &["--id", id, "--verify"]).await;
        verified.assert_success();
        // Regions that run at once are limited.
        drop(self.region);
        let args = ["--id", id];
        let restored = start_restored(&self.folder.url(), &["local"], 1, 4, &args).await;
        self.saved.assert_restored(&restored.api(0)).await;
    }
}

/// Asserts that a command was told that its backup isn't complete, and what to do.
#[track_caller]
fn assert_interrupted(output: &CommandOutput) {
    println!("{output}");
    assert_ne!(output.code, Some(0), "{output}");
    output.assert_mentions(&[HINT]);
}

#[tokio::test]
async fn a_backup_whose_node_was_killed_goes_on_with_the_shards_that_it_lacks() {
    let mut slow = SlowBackups::start().await;
    let (running, id) = slow.begin(&[]).await;
    slow.region.kill(slow.seat);
    assert_interrupted(&running.wait().await);
    slow.assert_incomplete(&id).await;
    let kept = slow.kept_files(&id);
    let shards = slow.folder.complete_shards(&id).len() as u64;
    slow.region.network.heal();
    slow.region.restart(slow.seat).await;
    slow.region.wait_formed().await;
    let backup = slow.complete(&[]).await;
    assert!(backup.is_resumed, "{backup:?}");
    assert_eq!((&backup.id, backup.kept_shards), (&id, shards));
    let now = slow.kept_files(&id);
    assert!(
        kept.iter()
            .all(|(name, written)| now.get(name) == Some(written))
    );
    slow.assert_restored(&id).await;
}

#[tokio::test]
async fn a_backup_runs_alone_and_ends_with_its_command() {
    let slow = SlowBackups::start().await;
    let (running, id) = slow.begin(&[]).await;
    let second = run_command(slow.command(&[])).await;
    println!("{second}");
    second.assert_failure().assert_mentions(&["409"]);
    // As by Ctrl-C.
    let pid = running.pid().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::INT).unwrap();
    assert_interrupted(&running.wait().await);
    slow.assert_incomplete(&id).await;
    slow.region.network.heal();
    let backup = slow.complete(&[]).await;
    assert_eq!((&backup.id, backup.is_resumed), (&id, true));
    assert!(backup.kept_shards > 0, "{backup:?}");
    slow.assert_restored(&id).await;
}

#[tokio::test]
async fn a_new_backup_is_begun_beside_an_incomplete_one_if_that_is_asked_for() {
    let slow = SlowBackups::start().await;
    let (running, first) = slow.begin(&[]).await;
    running.kill().await;
    slow.region.network.heal();
    let second = slow.complete(&["--new"]).await;
    assert!(second.id > first, "{second:?} {first}");
    assert_eq!((second.is_resumed, second.kept_shards), (false, 0));
    assert_eq!(slow.folder.ids(), [first.clone(), second.id.clone()]);
    slow.assert_incomplete(&first).await;
    let listed = list_backups(&slow.folder.url(), &[]).await;
    println!("{listed}");
    let listed = listed.assert_success();
    listed.assert_mentions(&[&first, &second.id, "incomplete"]);
    // The one that is complete is restored, without its name.
    let dir = tempfile::tempdir().unwrap();
    let restored = restore(&slow.folder.url(), &dir.path().join("data"), &[]).await;
    let restored = restored.assert_success();
    restored.assert_mentions(&[&second.id]);
    // With nothing left to go on with, another one begins.
    fs::remove_dir_all(slow.folder.path().join(&first)).unwrap();
    let third = slow.complete(&[]).await;
    assert!(!third.is_resumed && third.id > second.id, "{third:?}");
    slow.assert_restored(&third.id).await;
}

#[tokio::test]
async fn a_shard_whose_end_is_damaged_is_backed_up_again() {
    let slow = SlowBackups::start().await;
    slow.region.network.heal();
    let complete = slow.complete(&[]).await;
    // As it was before its last steps, but for a shard whose last file was torn.
    fs::remove_file(slow.folder.file(&complete.id, "manifest.json")).unwrap();
    let torn = slow.folder.file(&complete.id, "shard-002/shard.json");
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    let resumed = slow.complete(&[]).await;
    assert_eq!((&resumed.id, resumed.is_resumed), (&complete.id, true));
    assert_eq!((resumed.kept_shards, resumed.records), (3, KEYS));
    slow.assert_restored(&complete.id).await;
}
