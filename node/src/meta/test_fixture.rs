//! Fixture with a metadata state on a disk of its own, and commands for it; for tests only.

use std::ops::ControlFlow;
use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::command_refusal::{CommandRefusal, CommandResult};
use super::node_refusal::NodeRefusal;
use super::nodes::NodeResponse;
use super::plans::default_plans;
use super::state::MetaState;
use super::topology::Topology;
use crate::raft::{MachineState, NodeId};
use crate::store::keys::{self, GroupId, Rows};
use crate::store::{Engine, EngineSettings, RowBatch, Scan};

pub(super) struct MetadataFixture {
    _dir: tempfile::TempDir,
    pub(super) engine: Arc<Engine>,
    pub(super) state: MetaState,
    /// True if the state is reopened after every command.
    is_reopened: bool,
    /// Time of the next commands.
    pub(super) time: u64,
}

pub(super) const GENERATION: u32 = 1;

pub(super) fn rows(generation: u32) -> Rows {
    Rows::new(GroupId::META, generation)
}

impl MetadataFixture {
    pub(super) fn new(is_reopened: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 1 << 20,
            log_segment_bytes: 1 << 20,
            compaction_rate: 0,
        };
        let engine = Arc::new(Engine::open(dir.path(), &settings).unwrap());
        let state = MetaState::open(engine.state.clone(), rows(GENERATION)).unwrap();
        Self {
            _dir: dir,
            engine,
            state,
            is_reopened,
            time: 1000,
        }
    }

    /// Creates a cluster of one region, `eu`, with 4 shards, bootstrapped by node 1.
    pub(super) fn bootstrapped() -> Self {
        let mut fixture = Self::new(false);
        fixture
            .apply(Command::Bootstrap(bootstrap_command()))
            .unwrap();
        fixture
    }

    pub(super) fn apply(&mut self, kind: Command) -> CommandResult {
        self.try_apply(kind).unwrap()
    }

    pub(super) fn try_apply(&mut self, kind: Command) -> std::io::Result<CommandResult> {
        let command = pb::MetaCommand {
            time: self.time,
            kind: Some(kind),
        };
        let mut batch = RowBatch::default();
        let response = self.state.apply(&command, &mut batch)?;
        self.write_batch(batch);
        Ok(response)
    }

    pub(super) fn write_batch(&mut self, mut batch: RowBatch) {
        self.state.finish_batch(&mut batch);
        self.engine.state.write(batch).unwrap();
        self.state.batch_written();
        if self.is_reopened {
            self.state = MetaState::open(self.engine.state.clone(), rows(GENERATION)).unwrap();
        }
    }

    /// Applies a command that must be refused, through the dispatch of all commands and through its
    /// own method; both must change nothing.
    pub(super) fn apply_refused(&mut self, kind: Command) -> NodeRefusal {
        let before = (self.digest(), self.topology());
        let mut batch = RowBatch::default();
        let direct: NodeResponse = match &kind {
            Command::RegisterNode(register) => self.state.register_node(5, register, &mut batch),
            Command::SetNodeState(set) => self.state.set_node_state(5, *set, &mut batch),
            Command::SetPlacement(set) => self.state.set_placement(set, &mut batch),
            other => panic!("{other:?} is no command on nodes"),
        }
        .unwrap();
        let refusal = direct.unwrap_err();
        assert_eq!(batch.bytes(), RowBatch::default().bytes());
        assert_eq!(self.apply(kind), Err(CommandRefusal::from(refusal)));
        assert_eq!((self.digest(), self.topology()), before);
        refusal
    }

    pub(super) fn digest(&self) -> u64 {
        self.state.catalog().header().digest
    }

    pub(super) fn topology(&self) -> Topology {
        Topology::clone(&self.state.catalog().topology())
    }

    /// Copies all rows to another generation, as a snapshot does.
    pub(super) fn copy_rows(&self, to: Rows) {
        let (from, to_key) = rows(GENERATION).bounds();
        let scan = Scan {
            from,
            to: to_key,
            fill_cache: false,
        };
        let mut batch = RowBatch::default();
        let visit = |key: &[u8], row: &[u8]| {
            batch.put(
                keys::from_portable(to, keys::to_portable(key).unwrap()),
                row,
            );
            ControlFlow::Continue(())
        };
        self.engine.state.scan(scan, visit).unwrap();
        self.engine.state.write(batch).unwrap();
    }
}

pub(super) fn bootstrap_without_node() -> pb::BootstrapCluster {
    pb::BootstrapCluster {
        cluster_id: "c".into(),
        shards: 4,
        level: 1,
        region: "eu".into(),
        incarnation: 9,
        plans: default_plans(),
        ..Default::default()
    }
}

pub(super) fn bootstrap_command() -> pb::BootstrapCluster {
    pb::BootstrapCluster {
        node: 1,
        rpc: "n1:7070".into(),
        http: "n1:8080".into(),
        version: "0.2.0".into(),
        ..bootstrap_without_node()
    }
}

pub(super) fn id(number: u64) -> NodeId {
    NodeId::from(number)
}

pub(super) fn registration(node: u64) -> pb::RegisterNode {
    pb::RegisterNode {
        node,
        region: "eu".into(),
        rpc: format!("n{node}:7070"),
        http: format!("n{node}:8080"),
        level: 1,
        version: "0.2.0".into(),
        name: String::new(),
    }
}

pub(super) fn set_state_command(node: u64, state: pb::NodeState) -> Command {
    Command::SetNodeState(pb::SetNodeState {
        node,
        state: state.into(),
        ..Default::default()
    })
}

pub(super) fn placement_command(
    shard: u32,
    expected_epoch: u64,
    voters: &[u64],
    learners: &[u64],
) -> pb::SetPlacement {
    pb::SetPlacement {
        region: 1,
        shard,
        expected_epoch,
        voters: voters.to_vec(),
        learners: learners.to_vec(),
    }
}
