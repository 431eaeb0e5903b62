//! Tests of nodes that leave with their region and are prepared to join anew.

use std::ffi::OsString;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};

use super::*;
use crate::cluster::rejoin_scope::ShardScope;
use crate::config::Command;
use crate::raft::OfflineGroup;
use crate::shard::{Shard, ShardState, StateMemory};
use crate::store::keys::GroupId;
use crate::store::testing::small_engine;

const STORED_IDENTITY: &str = r#"{"format": 1, "cluster_id": "c", "node_id": 7, "region": "us",
    "shards": 1, "incarnation": 9, "region_number": 2, "founder": false}"#;
const BUCKET: &str = "aAAAAAAAAAAAAA";
const NODE: NodeId = NodeId::new(7);

/// Data directory of node 7 in region 2, which another region lacks two changes of.
struct DirectoryFixture {
    dir: tempfile::TempDir,
}

impl DirectoryFixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY), STORED_IDENTITY).unwrap();
        let fixture = Self { dir };
        fixture.write_changes().await;
        fixture
    }

    async fn write_changes(&self) {
        let engine = Arc::new(small_engine(self.path()));
        let db = engine.state.clone();
        let open = |rows| ShardState::open(db, rows, StateMemory::TEST);
        let mut shard = OfflineGroup::<Shard>::open(&engine, GroupId::shard(0), open).unwrap();
        let write = |key: &'static str, op| pb::Write {
            bucket: Bytes::from(BUCKET),
            key: Bytes::from(key),
            op: Some(op),
            condition: None,
        };
        let put = pb::Put {
            value: Bytes::from("v"),
            may_create: true,
            ..Default::default()
        };
        for kind in [
            Kind::Bootstrap(pb::BootstrapShard {
                region: 2,
                incarnation: 9,
                level: 1,
                must_seed: false,
            }),
            Kind::SetPeers(pb::SetPeers {
                epoch: 1,
                peers: vec![pb::Peer {
                    region: 1,
                    incarnation: 5,
                }],
            }),
            Kind::Writes(pb::WriteBatch {
                time: 16,
                writes: vec![
                    write("put", Op::Put(put)),
                    write("deleted", Op::Delete(pb::Delete {})),
                ],
            }),
        ] {
            let command = pb::ShardCommand { kind: Some(kind) };
            shard.apply(command).await.unwrap();
        }
        shard.become_sole_voter(NODE, "us-1:7070").await.unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self) -> Config {
        let dir = self.path().to_str().unwrap();
        let args = ["cloudkv-node", "--data-dir", dir].map(OsString::from);
        match Config::load(args, []) {
            Ok(Command::Run { config, .. }) => *config,
            other => panic!("{other:?}"),
        }
    }

    /// Carries out the pending step, as a start does.
    async fn start(&self) -> Result<Arc<Engine>, StartError> {
        let pending = recovery_file::read(self.path()).unwrap().unwrap();
        let engine = Arc::new(small_engine(self.path()));
        export_and_reset(&self.config(), engine, &pending).await
    }

    fn step(&self) -> RecoveryStep {
        recovery_file::read(self.path()).unwrap().unwrap().step
    }

    fn set_step(&self, step: RecoveryStep) {
        let pending = PendingRecovery {
            node: NODE,
            step,
            lost: vec![NodeId::from(8)],
        };
        recovery_file::write(self.path(), &pending).unwrap();
    }

    fn lines(&self) -> Vec<String> {
        let path = self.path().join(format!("recovered/{BUCKET}.7.ndjson"));
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.path().join(path).exists()
    }
}

fn export_step() -> RecoveryStep {
    RecoveryStep::RegionExport {
        region: "us".to_owned(),
        join: vec!["eu-1:7070".to_owned()],
    }
}

fn join_step() -> RecoveryStep {
    RecoveryStep::RegionJoin {
        region: "us".to_owned(),
        join: vec!["eu-1:7070".to_owned()],
    }
}

#[tokio::test]
async fn what_other_regions_lack_is_exported_and_the_rest_set_aside() {
    let fixture = DirectoryFixture::new().await;
    fixture.set_step(export_step());
    let engine = fixture.start().await.unwrap();
    assert_eq!(fixture.step(), join_step());
    assert!(engine.log.is_empty());
    let lines = fixture.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(r#""value":"v""#)));
    assert!(lines.iter().any(|line| line.contains(r#""op":"delete""#)));
    for entry in ["identity.json", "log", "state"] {
        assert!(fixture.has(&format!("before-recovery/7/{entry}")));
    }
    assert!(!fixture.has(IDENTITY) && !fixture.has(EXPORT_DIR));
    drop(engine);
    // The next start finds a new node's directory.
    fixture.start().await.unwrap();
    assert_eq!(fixture.step(), join_step());
    assert_eq!(fixture.lines(), lines);
}

#[tokio::test]
async fn a_start_that_was_interrupted_goes_on() {
    let fixture = DirectoryFixture::new().await;
    fs::create_dir(fixture.path().join(EXPORT_DIR)).unwrap();
    let partial = fixture.path().join(format!("{EXPORT_DIR}/{BUCKET}.ndjson"));
    fs::write(partial, "partial").unwrap();
    fixture.set_step(export_step());
    drop(fixture.start().await.unwrap());
    assert_eq!(fixture.lines().len(), 2);
    // The identity wasn't moved yet; the log was, and the start has created an empty one.
    let before = fixture.path().join("before-recovery/7");
    let log_size = fs::read_dir(before.join("log")).unwrap().count();
    fs::rename(before.join(IDENTITY), fixture.path().join(IDENTITY)).unwrap();
    let engine = fixture.start().await.unwrap();
    assert!(engine.log.is_empty());
    assert!(!fixture.has(IDENTITY) && fixture.has("before-recovery/7/identity.json"));
    let moved = fs::read_dir(before.join("log")).unwrap().count();
    assert_eq!(moved, log_size);
}

#[tokio::test]
async fn the_scope_that_was_decided_is_kept_with_the_export() {
    let scope = |region| RejoinScope {
        region,
        shards: vec![ShardScope {
            is_imported: true,
            watermark: 5,
        }],
    };
    for (decided, kept) in [
        (scope(2), scope(2)),
        // Of another recovery.
        (
            scope(1),
            RejoinScope {
                region: 2,
                shards: Vec::new(),
            },
        ),
    ] {
        let fixture = DirectoryFixture::new().await;
        decided.write(fixture.path(), SCOPE_FILE).unwrap();
        fixture.set_step(export_step());
        fixture.start().await.unwrap();
        let recovered = fixture.path().join(RECOVERED_DIR);
        let read = RejoinScope::read(&recovered, "7.json").unwrap();
        assert_eq!(read, Some(kept));
        assert!(!fixture.has(SCOPE_FILE));
    }
}

#[tokio::test]
async fn nothing_is_exported_for_another_node() {
    let fixture = DirectoryFixture::new().await;
    let other = STORED_IDENTITY.replace("\"node_id\": 7", "\"node_id\": 9");
    fs::write(fixture.path().join(IDENTITY), other).unwrap();
    fixture.set_step(export_step());
    assert!(fixture.start().await.is_err());
    assert_eq!(fixture.step(), export_step());
    assert!(fixture.has("state") && !fixture.has(RECOVERED_DIR));
}

#[tokio::test]
async fn other_steps_leave_the_directory_as_it_is() {
    let fixture = DirectoryFixture::new().await;
    let region = "us".to_owned();
    fixture.set_step(RecoveryStep::RegionImport { region });
    let engine = fixture.start().await.unwrap();
    assert!(!engine.log.is_empty());
    assert!(fixture.has(IDENTITY) && !fixture.has(RECOVERED_DIR));
}
