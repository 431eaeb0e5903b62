//! openraft's type parameters, and the traits that a replicated state machine implements.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::vote::leader_id_std::{self, LeaderId};
use openraft::{BasicNode, RaftTypeConfig};
use prost::Message;

use crate::store::keys::Rows;
use crate::store::{RowBatch, StoreError};
use crate::types::NodeId;

/// A replicated state machine, described by its types.
pub trait StateMachine:
    Copy + fmt::Debug + Default + Eq + Ord + Send + Sync + Unpin + 'static
{
    /// Command, as the log holds it.
    type Command: prost::Message + Default + 'static;
    /// Response of an applied command to its proposer.
    type CommandResult: Send + Sync + 'static;
    /// State that commands are applied to.
    type State: MachineState<Self>;
    /// Set if the commit of an entry is made durable before its effects are visible: a node that
    /// has shown them shows them again after a crash, even if it reaches no other member. Costs a
    /// sync of the log for each batch of entries.
    const COMMITS_ARE_DURABLE: bool;
    /// Number of entries between two checkpoints of a replica: the index of each is a multiple.
    const ENTRIES_PER_CHECKPOINT: u64;
}

/// State of a machine on this node.
///
/// Invariant: `apply` is a function of the state and the command, and of nothing else: no clock, no
/// configuration, no other group. Replicas that applied the same entries have the same rows.
pub trait MachineState<M: StateMachine>: Send + Sync + 'static {
    /// Applies a command: puts the rows that it changes into `batch`, and returns the response.
    /// Commands come in log order. The state must see its own changes at once, readers must not see
    /// them yet.
    ///
    /// An error stops the node: the command is unknown to this version, or the storage failed.
    fn apply(&mut self, command: &M::Command, batch: &mut RowBatch)
    -> io::Result<M::CommandResult>;

    /// Returns whether a command scans rows. It is applied in a batch of its own: a scan doesn't
    /// see what is only in the batch, and what it sees must not depend on how the entries happened
    /// to be batched.
    fn is_scan(command: &M::Command) -> bool;

    /// Called after each entry, whatever it held, with its index in the log.
    fn entry_applied(&mut self, _index: u64) {}

    /// Returns a digest of the state after the last applied entry: equal on all replicas that have
    /// applied the same entries.
    fn digest(&self) -> u64;

    /// Adds what `apply` has accumulated over the entries of a batch to it, once per batch.
    fn finish_batch(&mut self, batch: &mut RowBatch);

    /// Called once the batch is written: readers may see it from now on.
    fn batch_written(&mut self);

    /// Response to an entry that holds no command.
    fn empty_response() -> M::CommandResult;

    /// Drops the state and reads it again from `rows`, which a snapshot brought.
    fn reload(&mut self, rows: Rows) -> Result<(), StoreError>;
}

/// A command as openraft carries it: encoded once, and shared, not copied, between the log, its
/// cache, other members and apply.
pub(crate) struct Command<M: StateMachine>(Arc<EncodedCommand<M>>);

struct EncodedCommand<M: StateMachine> {
    command: M::Command,
    bytes: Bytes,
}

impl<M: StateMachine> Command<M> {
    /// Encodes a command.
    pub(crate) fn new(command: M::Command) -> Self {
        let bytes = command.encode_to_vec().into();
        Self(Arc::new(EncodedCommand { command, bytes }))
    }

    /// Decodes a command, whose values share `bytes`.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, prost::DecodeError> {
        let command = M::Command::decode(bytes.clone())?;
        Ok(Self(Arc::new(EncodedCommand { command, bytes })))
    }

    /// Returns the command.
    pub(crate) fn get(&self) -> &M::Command {
        &self.0.command
    }

    /// Returns the encoded command.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }
}

impl<M: StateMachine> Clone for Command<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: StateMachine> fmt::Debug for Command<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands hold users' data.
        f.write_str("Command")
    }
}

impl<M: StateMachine> fmt::Display for Command<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// openraft's type configuration for a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeConfig<M: StateMachine>(PhantomData<M>);

impl<M: StateMachine> RaftTypeConfig for TypeConfig<M> {
    type D = Command<M>;
    type R = M::CommandResult;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = Payload<M>;
    type Entry = Entry<M>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = ProposalCallback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Leader of a committed entry: its term.
pub(super) type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
/// Position of an entry in a log: its term and index.
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
/// A vote of a node in a term.
pub(super) type Vote = openraft::Vote<LeaderId<u64, NodeId>>;
/// Voters and learners of a group.
pub(super) type Membership = openraft::Membership<NodeId, BasicNode>;
/// Voters and learners, with the position of the entry that holds them.
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, NodeId, BasicNode>;
/// Payload of an entry.
pub(super) type Payload<M> = openraft::EntryPayload<Command<M>, NodeId, BasicNode>;
/// An entry of a log.
pub(super) type Entry<M> =
    openraft::Entry<<LeaderId<u64, NodeId> as RaftLeaderId>::Committed, Payload<M>>;

/// Receives the result of a proposal. Dropped without a call when Raft stops: the outcome of the
/// proposal is unknown then.
pub(super) struct ProposalCallback<T>(pub Box<dyn FnOnce(T) + Send>);

impl<C: RaftTypeConfig, T: Send + 'static> Responder<C, T> for ProposalCallback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
