//! Log positions, votes, memberships and entries as bytes.
//!
//! An entry is stored as
//!
//! ```text
//! format u8 = 1 | kind u8 | term u64 | index u64 | payload      (numbers big-endian)
//! ```
//!
//! where the payload is empty (blank), or the protobuf of the command or the membership.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{Buf, BufMut, Bytes};
use cloudkv_proto::v1 as pb;
use openraft::vote::RaftLeaderId;
use openraft::{BasicNode, EntryPayload};
use prost::Message;

use super::types::{
    Command, CommittedLeaderId, Entry, LogId, Membership, StateMachine, StoredMembership, Vote,
};
use crate::types::NodeId;

const FORMAT_VERSION: u8 = 1;
const HEADER_BYTES: usize = 18;
const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn decode_error(error: prost::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Encodes an entry.
pub(super) fn encode_entry<M: StateMachine>(entry: &Entry<M>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entry_len(entry));
    write_entry::<M>(entry, &mut bytes);
    bytes
}

/// Encoded size of an entry in bytes: exact for commands, approximate for others.
pub(super) fn entry_len<M: StateMachine>(entry: &Entry<M>) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(command) => command.bytes().len(),
        EntryPayload::Membership(_) => 128,
    };
    HEADER_BYTES + payload
}

/// Appends an encoded entry to `bytes`.
pub(super) fn write_entry<M: StateMachine>(entry: &Entry<M>, bytes: &mut Vec<u8>) {
    let kind = match &entry.payload {
        EntryPayload::Blank => KIND_BLANK,
        EntryPayload::Normal(_) => KIND_COMMAND,
        EntryPayload::Membership(_) => KIND_MEMBERSHIP,
    };
    bytes.put_u8(FORMAT_VERSION);
    bytes.put_u8(kind);
    bytes.put_u64(entry.log_id.leader_id.term);
    bytes.put_u64(entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Normal(command) => bytes.put_slice(command.bytes()),
        EntryPayload::Membership(membership) => membership_to_pb(membership).encode_raw(bytes),
    }
}

/// Decodes an entry, whose values share `bytes`.
pub(super) fn decode_entry<M: StateMachine>(mut bytes: Bytes) -> io::Result<Entry<M>> {
    if bytes.len() < HEADER_BYTES {
        return Err(invalid("decode log entry: shorter than its header"));
    }
    if bytes.get_u8() != FORMAT_VERSION {
        return Err(invalid("decode log entry: format unknown to this version"));
    }
    let kind = bytes.get_u8();
    let log_id = log_id(bytes.get_u64(), bytes.get_u64());
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMAND => EntryPayload::Normal(Command::decode(bytes).map_err(decode_error)?),
        KIND_MEMBERSHIP => {
            let membership = pb::Membership::decode(bytes).map_err(decode_error)?;
            EntryPayload::Membership(membership_from_pb(membership)?)
        }
        _ => {
            return Err(invalid("decode log entry: kind unknown to this version"));
        }
    };
    Ok(Entry::<M> { log_id, payload })
}

/// Decodes the position of an entry, without its payload.
pub(super) fn entry_log_id(mut bytes: Bytes) -> io::Result<LogId> {
    if bytes.len() < HEADER_BYTES {
        return Err(invalid("decode log entry: shorter than its header"));
    }
    bytes.advance(2);
    Ok(log_id(bytes.get_u64(), bytes.get_u64()))
}

/// Builds a position.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Encodes a position.
pub(super) fn encode_log_id(log_id: &LogId) -> Vec<u8> {
    log_id_to_pb(log_id).encode_to_vec()
}

/// Decodes a position.
pub(super) fn decode_log_id(bytes: Bytes) -> io::Result<LogId> {
    pb::LogId::decode(bytes)
        .map(|id| log_id(id.term, id.index))
        .map_err(decode_error)
}

/// Converts a position to its message.
pub(super) fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

/// Converts a position from its message.
pub(super) fn log_id_from_pb(id: pb::LogId) -> LogId {
    log_id(id.term, id.index)
}

/// Converts a vote to its message.
pub(super) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    let leader = &vote.leader_id;
    pb::Vote {
        term: leader.term,
        candidate: leader.voted_for.into(),
        committed: vote.committed,
    }
}

/// Converts a vote from its message.
pub(super) fn vote_from_pb(vote: pb::Vote) -> Vote {
    Vote {
        leader_id: RaftLeaderId::new(vote.term, NodeId::from(vote.candidate)),
        committed: vote.committed,
    }
}

/// Encodes a vote.
pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_to_pb(vote).encode_to_vec()
}

/// Decodes a vote.
pub(super) fn decode_vote(bytes: Bytes) -> io::Result<Vote> {
    let vote = pb::Vote::decode(bytes).map_err(decode_error)?;
    Ok(vote_from_pb(vote))
}

/// Encodes a membership and its position.
pub(super) fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    let stored = pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    };
    stored.encode_to_vec()
}

/// Decodes a membership and its position.
pub(super) fn decode_membership(bytes: Bytes) -> io::Result<StoredMembership> {
    stored_membership_from_pb(pb::StoredMembership::decode(bytes).map_err(decode_error)?)
}

/// Converts a membership and its position from their message.
pub(super) fn stored_membership_from_pb(
    stored: pb::StoredMembership,
) -> io::Result<StoredMembership> {
    let log_id = stored.log_id.map(log_id_from_pb);
    let membership = membership_from_pb(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(log_id, membership))
}

fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    let members = membership.nodes();
    pb::Membership {
        configs: configs
            .map(|ids| pb::Voters {
                ids: ids.iter().copied().map(u64::from).collect(),
            })
            .collect(),
        members: members
            .map(|(id, node)| pb::Member {
                id: u64::from(*id),
                rpc: node.addr.clone(),
            })
            .collect(),
    }
}

fn membership_from_pb(membership: pb::Membership) -> io::Result<Membership> {
    let configs: Vec<BTreeSet<NodeId>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.ids.into_iter().map(NodeId::from).collect())
        .collect();
    let nodes: BTreeMap<NodeId, BasicNode> = membership
        .members
        .into_iter()
        .map(|member| (NodeId::from(member.id), BasicNode { addr: member.rpc }))
        .collect();
    Membership::new(configs, nodes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
