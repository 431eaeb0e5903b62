//! Tests of recoveries by force that a data directory asks for.

use cloudkv_common::process::describe_error;
use cloudkv_proto::v1::shard_command::Kind as ShardCommandKind;

use super::*;
use crate::meta::{NodeState, Topology, default_plans};
use crate::store::testing::small_engine;

const IDENTITY: &str = r#"{"format": 1, "cluster_id": "c", "node_id": 1, "region": "eu",
    "shards": 3, "incarnation": 9}"#;
const ADDRESS: &str = "n1:7070";
const TIME: Nanos = 77;

/// Data directory of node 1, with a metadata of three nodes and a replica of shard 0.
struct DirectoryFixture {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

impl DirectoryFixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("identity.json"), IDENTITY).unwrap();
        let engine = Arc::new(small_engine(dir.path()));
        let fixture = Self { dir, engine };
        let (mut metadata, _) = fixture.open_metadata();
        let bootstrap = pb::BootstrapCluster {
            cluster_id: "c".into(),
            shards: 3,
            level: 1,
            region: "eu".into(),
            incarnation: 9,
            plans: default_plans(),
            ..Default::default()
        };
        let register = |node| pb::RegisterNode {
            node,
            region: "eu".into(),
            rpc: format!("n{node}:7070"),
            http: format!("n{node}:8080"),
            level: 1,
            version: "0.2.0".into(),
            name: String::new(),
        };
        let nodes = [1, 2, 3].map(|node| Command::RegisterNode(register(node)));
        for kind in std::iter::once(Command::Bootstrap(bootstrap)).chain(nodes) {
            let command = pb::MetaCommand {
                time: 5,
                kind: Some(kind),
            };
            metadata.apply(command).await.unwrap().unwrap();
        }
        let bootstrap = pb::BootstrapShard {
            region: 1,
            incarnation: 9,
            level: 1,
            must_seed: false,
        };
        let kind = Some(ShardCommandKind::Bootstrap(bootstrap));
        let mut shard = fixture.open_shard(0);
        shard.apply(pb::ShardCommand { kind }).await.unwrap();
        fixture
    }

    fn open_metadata(&self) -> (OfflineGroup<Meta>, Arc<Topology>) {
        let db = self.engine.state.clone();
        let mut topology = None;
        let group = OfflineGroup::open(&self.engine, GroupId::META, |rows| {
            let state = MetaState::open(db, rows)?;
            topology = Some(Topology::clone(&state.catalog().topology()));
            Ok(state)
        });
        (group.unwrap(), Arc::new(topology.unwrap()))
    }

    fn open_shard(&self, number: u16) -> OfflineGroup<Shard> {
        let db = self.engine.state.clone();
        let open = |rows| ShardState::open(db, rows, StateMemory::TEST);
        OfflineGroup::open(&self.engine, GroupId::shard(number), open).unwrap()
    }

    /// Stores a pending recovery, and carries it out.
    async fn recover(&self, pending: &PendingRecovery) -> Result<(), StartError> {
        recovery_file::write(self.dir.path(), pending).unwrap();
        recover_groups(self.dir.path(), &self.engine, ADDRESS, pending, TIME).await
    }

    fn pending(&self) -> Option<PendingRecovery> {
        recovery_file::read(self.dir.path()).unwrap()
    }
}

fn pending(node: u64, step: RecoveryStep, lost: &[u64]) -> PendingRecovery {
    PendingRecovery {
        node: NodeId::from(node),
        step,
        lost: lost.iter().copied().map(NodeId::from).collect(),
    }
}

#[tokio::test]
async fn the_metadata_is_recovered_and_removes_the_lost_nodes() {
    let fixture = DirectoryFixture::new().await;
    // One was never registered.
    let metadata = pending(1, RecoveryStep::Metadata, &[2, 3, 9]);
    for _ in 0..2 {
        fixture.recover(&metadata).await.unwrap();
        assert_eq!(fixture.pending(), None);
        let (_, topology) = fixture.open_metadata();
        let states = [1, 2, 3].map(|number: u64| {
            let node = topology.node(NodeId::from(number)).unwrap();
            (node.state, node.removed_at)
        });
        let removed = (NodeState::Removed, TIME);
        assert_eq!(states, [(NodeState::Active, 0), removed, removed]);
    }
}

#[tokio::test]
async fn shards_are_recovered_if_the_node_has_them() {
    let fixture = DirectoryFixture::new().await;
    let shards = |shards: &[u16]| {
        let shards = shards.to_vec();
        pending(1, RecoveryStep::Shards { shards }, &[2, 3])
    };
    fixture.recover(&shards(&[0])).await.unwrap();
    assert_eq!(fixture.pending(), None);
    for (numbers, expected) in [
        (
            &[0, 1][..],
            "recover group shard-1: this node holds nothing of it",
        ),
        (
            &[0, 3][..],
            "it names shard 3, but the cluster has 3 shards",
        ),
    ] {
        let error = fixture.recover(&shards(numbers)).await.unwrap_err();
        let text = describe_error(&error);
        assert!(text.contains(expected), "{text}");
        assert_eq!(fixture.pending(), Some(shards(numbers)));
    }
}

#[tokio::test]
async fn a_file_of_another_node_and_one_that_declares_the_node_lost_are_refused() {
    let fixture = DirectoryFixture::new().await;
    for (node, lost, expected) in [
        (
            2,
            3,
            "it was written for node 2, and the directory isn't that node's",
        ),
        (1, 1, "it declares the node itself lost"),
    ] {
        let refused = pending(node, RecoveryStep::Metadata, &[lost]);
        let error = fixture.recover(&refused).await.unwrap_err();
        let text = describe_error(&error);
        assert!(text.contains(expected), "{text}");
        assert_eq!(fixture.pending(), Some(refused));
    }
}

#[test]
fn a_node_that_has_joined_anew_imports_what_it_has_exported() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let identity: Identity = serde_json::from_str(IDENTITY).unwrap();
    finish_join(dir, &identity).unwrap();
    assert_eq!(recovery_file::read(dir).unwrap(), None);
    let region = || "eu".to_owned();
    let join = RecoveryStep::RegionJoin {
        region: region(),
        join: vec!["us-1:7070".to_owned()],
    };
    recovery_file::write(dir, &pending(7, join, &[2])).unwrap();
    let import = pending(1, RecoveryStep::RegionImport { region: region() }, &[2]);
    for _ in 0..2 {
        finish_join(dir, &identity).unwrap();
        assert_eq!(recovery_file::read(dir).unwrap(), Some(import.clone()));
    }
}
