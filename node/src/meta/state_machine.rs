//! The metadata state machine: dispatch of its commands.
//!
//! Invariant: apply is a function of the state and the command: time and limits come with the
//! command.

use std::io;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::command_refusal::{CommandRefusal, CommandResult};
use super::feature_level::{check_feature_level, unsupported_item};
use super::state::MetaState;
use crate::raft::{MachineState, StateMachine};
use crate::store::keys::Rows;
use crate::store::{RowBatch, StoreError};

/// The metadata state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meta;

impl StateMachine for Meta {
    type Command = pb::MetaCommand;
    type CommandResult = CommandResult;
    type State = MetaState;
    // A region that is cut off serves the buckets that it knew before a crash.
    const COMMITS_ARE_DURABLE: bool = true;
    // Few commands change the metadata.
    const ENTRIES_PER_CHECKPOINT: u64 = 16;
}

impl MachineState<Meta> for MetaState {
    fn apply(
        &mut self,
        command: &pb::MetaCommand,
        batch: &mut RowBatch,
    ) -> io::Result<CommandResult> {
        let time = command.time;
        match &command.kind {
            Some(Command::Bootstrap(bootstrap)) => self.bootstrap(time, bootstrap, batch),
            Some(Command::CreateBucket(create)) => Ok(self.create_bucket(time, create, batch)),
            Some(Command::ModifyBucket(modify)) => Ok(self.modify_bucket(modify, batch)),
            Some(Command::DeleteBucket(delete)) => {
                Ok(self.delete_bucket(time, &delete.bucket, batch))
            }
            Some(Command::BucketDropped(dropped)) => Ok(self.bucket_dropped(dropped, batch)),
            Some(Command::ExpireAccounts(expire)) => Ok(self.expire_accounts(*expire, batch)),
            Some(Command::SetPlanLimits(set)) => {
                if let Some(limits) = &set.limits {
                    self.put_plan(limits, batch)?;
                }
                Ok(Ok(()))
            }
            Some(Command::SetLevel(set)) => {
                check_feature_level(set.level)?;
                self.header.level = self.header.level.max(set.level);
                Ok(Ok(()))
            }
            Some(Command::RegisterNode(register)) => Ok(self
                .register_node(time, register, batch)?
                .map_err(CommandRefusal::from)),
            Some(Command::SetNodeState(set)) => Ok(self
                .set_node_state(time, *set, batch)?
                .map_err(CommandRefusal::from)),
            Some(Command::SetPlacement(set)) => Ok(self
                .set_placement(set, batch)?
                .map_err(CommandRefusal::from)),
            Some(Command::AddRegion(add)) => Ok(self.add_region(add)),
            Some(Command::RegionJoined(joined)) => Ok(self.region_joined(joined.region)),
            Some(Command::RemoveRegion(remove)) => Ok(self.remove_region(&remove.name)),
            Some(Command::RegionReconciled(reconciled)) => {
                self.region_reconciled(time, *reconciled, batch)
            }
            Some(Command::Restore(restore)) => self.restore(restore, batch),
            None => Err(unsupported_item("a command of a kind")),
        }
    }

    fn is_scan(_command: &pb::MetaCommand) -> bool {
        true
    }

    fn digest(&self) -> u64 {
        self.header_digest()
    }

    fn finish_batch(&mut self, batch: &mut RowBatch) {
        self.put_header(batch);
    }

    fn batch_written(&mut self) {
        self.publish();
    }

    fn empty_response() -> CommandResult {
        Ok(())
    }

    fn reload(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.load_rows(rows)
    }
}
