//! The shard state machine: dispatch of its commands.
//!
//! Invariant: apply is a function of the state and the command (see `raft::MachineState`).

use std::io;

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};

use super::feature_level::{check_feature_level, unsupported_item};
use super::response::ShardResponse;
use super::state::ShardState;
use crate::raft::{MachineState, StateMachine};
use crate::store::keys::Rows;
use crate::store::{RowBatch, StoreError};

/// The shard state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard;

impl StateMachine for Shard {
    type Command = pb::ShardCommand;
    type CommandResult = ShardResponse;
    type State = ShardState;
    // Users' reads of a shard need a majority of its region, which knows what is committed.
    const COMMITS_ARE_DURABLE: bool = false;
    const ENTRIES_PER_CHECKPOINT: u64 = 256;
}

impl MachineState<Shard> for ShardState {
    fn apply(
        &mut self,
        command: &pb::ShardCommand,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        match &command.kind {
            Some(Command::Writes(writes)) => self.apply_writes(writes, batch),
            Some(Command::Expire(expire)) => self.apply_expire(*expire, batch),
            Some(Command::DropBucket(drop)) => self.apply_drop_bucket(&drop.bucket, batch),
            Some(Command::CountReads(counts)) => self.apply_count_reads(counts),
            Some(Command::Bootstrap(bootstrap)) => self.bootstrap(bootstrap),
            Some(Command::SetLevel(set)) => self.set_level(set),
            Some(Command::SetPeers(set)) => self.apply_set_peers(set, batch),
            Some(Command::Merges(merges)) => self.apply_merges(merges, batch),
            Some(Command::Acknowledge(acknowledge)) => self.apply_acknowledge(acknowledge, batch),
            Some(Command::Collect(collect)) => self.apply_collect(collect, batch),
            Some(Command::Seed(seed)) => self.apply_seed(seed, batch),
            Some(Command::Fence(fence)) => Ok(self.apply_fence(fence)),
            Some(Command::Reconcile(reconcile)) => self.apply_reconcile(reconcile, batch),
            None => Err(unsupported_item("a command of a kind")),
        }
    }

    fn is_scan(command: &pb::ShardCommand) -> bool {
        matches!(
            command.kind,
            Some(
                Command::Expire(_)
                    | Command::DropBucket(_)
                    | Command::SetPeers(_)
                    | Command::Acknowledge(_)
                    | Command::Seed(_)
            )
        )
    }

    fn entry_applied(&mut self, index: u64) {
        self.pending_changes.end_entry(index);
    }

    fn digest(&self) -> u64 {
        self.header.digest
    }

    fn finish_batch(&mut self, batch: &mut RowBatch) {
        self.put_changes(batch);
    }

    fn batch_written(&mut self) {
        self.publish();
    }

    fn empty_response() -> ShardResponse {
        ShardResponse::Done
    }

    fn reload(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.load_rows(rows)
    }
}

impl ShardState {
    fn bootstrap(&mut self, bootstrap: &pb::BootstrapShard) -> io::Result<ShardResponse> {
        check_feature_level(bootstrap.level)?;
        if self.header.region == 0 {
            self.header.region = bootstrap.region;
            self.header.incarnation = bootstrap.incarnation;
            self.header.level = bootstrap.level;
            self.header.seeding = bootstrap.must_seed;
        }
        Ok(ShardResponse::Done)
    }

    fn set_level(&mut self, set: &pb::SetLevel) -> io::Result<ShardResponse> {
        check_feature_level(set.level)?;
        self.header.level = self.header.level.max(set.level);
        Ok(ShardResponse::Done)
    }
}
