//! Tests of `admin backups` at a folder.

use super::*;
use crate::backup::{BackupStart, FORMAT, MANIFEST_FILE, Manifest, START_FILE, to_json};

const INTACT: &str = "20261201T034500Z";
const BEGUN: &str = "20261201T044500Z";
const DAMAGED: &str = "20261201T054500Z";

/// A folder with backups of no shards.
struct Folder {
    _dir: tempfile::TempDir,
    target: BackupTarget,
}

impl Folder {
    fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = BackupTarget::open(&format!("file://{}", dir.path().display())).unwrap();
        Self { _dir: dir, target }
    }

    async fn begin(&self, id: &str) -> BackupStart {
        let start = BackupStart {
            format: FORMAT,
            id: id.to_owned(),
            cluster_id: "c1".to_owned(),
            region: "eu".to_owned(),
            shards: 0,
            version: "0.2.0".to_owned(),
            started_at: "2026-12-01T03:45:00Z".to_owned(),
        };
        let json = to_json(START_FILE, &start).unwrap();
        self.target.put(id, START_FILE, json).await.unwrap();
        start
    }

    async fn complete(&self, id: &str, is_intact: bool) {
        let manifest = Manifest {
            start: self.begin(id).await,
            finished_at: "2026-12-01T03:46:00Z".to_owned(),
            level: 2,
            metadata: Vec::new(),
            shard_files: Vec::new(),
            records: 0,
            bytes: 2_500_000,
            checksum: String::new(),
        };
        let mut manifest = manifest.seal().unwrap();
        if !is_intact {
            // The checksum isn't that of this.
            manifest.bytes += 1;
        }
        let json = to_json(MANIFEST_FILE, &manifest).unwrap();
        self.target.put(id, MANIFEST_FILE, json).await.unwrap();
    }

    /// Runs the command. Returns what is printed, and the result.
    async fn run(
        &self,
        id: Option<&str>,
        verify: bool,
        json: bool,
    ) -> (String, Result<(), String>) {
        let flags = BackupsFlags {
            at: self.target.url().to_owned(),
            id: id.map(str::to_owned),
            verify,
            json,
        };
        let mut output = Vec::new();
        let outcome = run(&flags, &mut output).await;
        let outcome = outcome.map_err(|error| error.to_string());
        (String::from_utf8(output).unwrap(), outcome)
    }
}

#[tokio::test]
async fn backups_are_listed_with_their_state() {
    let folder = Folder::create();
    for verify in [false, true] {
        let (text, outcome) = folder.run(None, verify, false).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(text, format!("{} has no backups\n", folder.target.url()));
    }
    folder.complete(INTACT, true).await;
    folder.begin(BEGUN).await;
    folder.complete(DAMAGED, false).await;
    let (text, outcome) = folder.run(None, false, false).await;
    assert_eq!(outcome, Ok(()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (line, words) in lines.iter().zip([
        ["id", "state", "size"],
        [INTACT, " complete ", "2.5 MB"],
        [BEGUN, " incomplete ", "eu"],
        [DAMAGED, " damaged ", "eu"],
        [DAMAGED, MANIFEST_FILE, "its checksum"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{text}");
    }
    let (text, outcome) = folder.run(Some(INTACT), false, true).await;
    assert_eq!(outcome, Ok(()));
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["bytes"], 2_500_000);
}

#[tokio::test]
async fn damaged_backups_are_named_and_make_the_command_fail() {
    let folder = Folder::create();
    folder.complete(INTACT, true).await;
    folder.begin(BEGUN).await;
    let (text, outcome) = folder.run(None, true, false).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        text,
        format!(
            "{INTACT}: complete and intact, region eu, 0 records\n\
             {BEGUN}: incomplete, not verified\n"
        )
    );
    folder.complete(DAMAGED, false).await;
    let (text, outcome) = folder.run(None, true, false).await;
    assert_eq!(outcome, Err(format!("damaged: {DAMAGED}")));
    assert!(text.contains(&format!("{DAMAGED}: damaged\n  ")), "{text}");
    assert!(text.contains(MANIFEST_FILE), "{text}");
    let (text, outcome) = folder.run(Some(DAMAGED), true, true).await;
    assert_eq!(outcome, Err(format!("damaged: {DAMAGED}")));
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["intact"], false);
}

#[tokio::test]
async fn a_named_backup_must_exist_and_be_complete_to_be_verified() {
    let folder = Folder::create();
    folder.complete(INTACT, true).await;
    folder.begin(BEGUN).await;
    assert_eq!(folder.run(Some(INTACT), true, false).await.1, Ok(()));
    assert_eq!(folder.run(Some(BEGUN), false, false).await.1, Ok(()));
    let error = folder.run(Some(BEGUN), true, false).await.1.unwrap_err();
    assert!(error.contains("isn't complete"), "{error}");
    let error = folder.run(Some(DAMAGED), false, false).await.1.unwrap_err();
    assert!(error.contains("has no backup"), "{error}");
}
