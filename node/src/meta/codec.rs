//! Conversion of metadata responses to and from messages between nodes, without loss.
//!
//! A peer of a later version may refuse for a reason that this version doesn't know. That is an
//! error here, with the peer's own text, and never taken for another reason.

use cloudkv_proto::v1::{self as pb, meta_refusal::Kind, meta_response::Kind as Answer};

use super::command_refusal::{CommandRefusal, CommandResult};
use super::node_refusal::NodeRefusal;
use crate::raft::NodeId;

/// Reason why a response can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseDecodeError {
    /// A later version refused for an unknown reason.
    #[error("the command was refused for a reason that this version does not know: {text}")]
    UnknownRefusal {
        /// Number of the refusal's kind.
        kind: i32,
        /// Text of the peer.
        text: String,
    },
    /// The response is empty.
    #[error("the response to a command is empty")]
    Empty,
}

/// Encodes a response.
pub(crate) fn to_pb(response: &CommandResult) -> pb::MetaResponse {
    let kind = match response {
        Ok(()) => Answer::Done(true),
        Err(refusal) => Answer::Refused((*refusal).into()),
    };
    pb::MetaResponse { kind: Some(kind) }
}

/// Decodes a response.
pub(crate) fn from_pb(response: pb::MetaResponse) -> Result<CommandResult, ResponseDecodeError> {
    match response.kind {
        Some(Answer::Done(true)) => Ok(Ok(())),
        Some(Answer::Refused(refused)) => refused.try_into().map(Err),
        Some(Answer::Done(false)) | None => Err(ResponseDecodeError::Empty),
    }
}

impl From<CommandRefusal> for pb::MetaRefusal {
    fn from(refusal: CommandRefusal) -> Self {
        let (kind, limit) = match refusal {
            CommandRefusal::AlreadyBootstrapped => (Kind::Bootstrapped, 0),
            CommandRefusal::UnknownBucket => (Kind::UnknownBucket, 0),
            CommandRefusal::UnknownAccount => (Kind::UnknownAccount, 0),
            CommandRefusal::NameTaken => (Kind::NameTaken, 0),
            CommandRefusal::AccessNotInPlan => (Kind::AccessNotInPlan, 0),
            CommandRefusal::TooManyBuckets { limit } => (Kind::TooManyBuckets, limit),
            CommandRefusal::TooManyAccounts => (Kind::TooManyAccounts, 0),
            CommandRefusal::ClusterFull => (Kind::ClusterFull, 0),
            CommandRefusal::Malformed => (Kind::Malformed, 0),
            CommandRefusal::RegionJoining { region } => (Kind::RegionJoining, u64::from(region)),
            CommandRefusal::RegionBeingRemoved { region } => {
                (Kind::RegionLeaving, u64::from(region))
            }
            CommandRefusal::LastRegion => (Kind::LastRegion, 0),
            CommandRefusal::NoSuchRegion => (Kind::NoSuchRegion, 0),
            CommandRefusal::Node(refusal) => return refusal.into(),
        };
        Self {
            kind: kind.into(),
            limit,
            text: refusal.to_string(),
        }
    }
}

impl From<NodeRefusal> for pb::MetaRefusal {
    fn from(refusal: NodeRefusal) -> Self {
        let (kind, limit) = match refusal {
            NodeRefusal::ZeroNodeId => (Kind::NodeZero, 0),
            NodeRefusal::UnknownNode { node } => (Kind::UnknownNode, u64::from(node)),
            NodeRefusal::NodeRemoved { node } => (Kind::NodeRemoved, u64::from(node)),
            NodeRefusal::UnknownRegion => (Kind::UnknownRegion, 0),
            NodeRefusal::WrongRegion { node } => (Kind::OtherRegion, u64::from(node)),
            NodeRefusal::InvalidAddress { limit } => (Kind::BadAddress, limit),
            NodeRefusal::AddressTaken { node } => (Kind::AddressTaken, u64::from(node)),
            NodeRefusal::VersionTooLong { limit } => (Kind::LongVersion, limit),
            NodeRefusal::MissingState => (Kind::NoState, 0),
            NodeRefusal::UnexpectedState { node } => (Kind::OtherState, u64::from(node)),
            NodeRefusal::UnknownShard { shards } => (Kind::UnknownShard, shards),
            NodeRefusal::StaleEpoch { epoch } => (Kind::StaleEpoch, epoch),
            NodeRefusal::InvalidVoterCount { voters } => (Kind::BadVoters, voters),
            NodeRefusal::DuplicateMember { node } => (Kind::NamedTwice, u64::from(node)),
            NodeRefusal::TooManyShards { limit } => (Kind::TooManyShards, limit),
        };
        Self {
            kind: kind.into(),
            limit,
            text: refusal.to_string(),
        }
    }
}

impl TryFrom<pb::MetaRefusal> for CommandRefusal {
    type Error = ResponseDecodeError;

    fn try_from(refused: pb::MetaRefusal) -> Result<Self, ResponseDecodeError> {
        // A number that this version doesn't know is read as no kind.
        refusal_of_kind(refused.kind(), refused.limit).ok_or(ResponseDecodeError::UnknownRefusal {
            kind: refused.kind,
            text: refused.text,
        })
    }
}

fn refusal_of_kind(kind: Kind, limit: u64) -> Option<CommandRefusal> {
    match kind {
        Kind::Unspecified => None,
        Kind::Bootstrapped => Some(CommandRefusal::AlreadyBootstrapped),
        Kind::UnknownBucket => Some(CommandRefusal::UnknownBucket),
        Kind::UnknownAccount => Some(CommandRefusal::UnknownAccount),
        Kind::NameTaken => Some(CommandRefusal::NameTaken),
        Kind::AccessNotInPlan => Some(CommandRefusal::AccessNotInPlan),
        Kind::TooManyBuckets => Some(CommandRefusal::TooManyBuckets { limit }),
        Kind::TooManyAccounts => Some(CommandRefusal::TooManyAccounts),
        Kind::ClusterFull => Some(CommandRefusal::ClusterFull),
        Kind::Malformed => Some(CommandRefusal::Malformed),
        Kind::RegionJoining => Some(CommandRefusal::RegionJoining {
            region: u32::try_from(limit).unwrap_or(0),
        }),
        Kind::RegionLeaving => Some(CommandRefusal::RegionBeingRemoved {
            region: u32::try_from(limit).unwrap_or(0),
        }),
        Kind::LastRegion => Some(CommandRefusal::LastRegion),
        Kind::NoSuchRegion => Some(CommandRefusal::NoSuchRegion),
        Kind::NodeZero
        | Kind::UnknownNode
        | Kind::NodeRemoved
        | Kind::UnknownRegion
        | Kind::OtherRegion
        | Kind::BadAddress
        | Kind::AddressTaken
        | Kind::LongVersion
        | Kind::NoState
        | Kind::OtherState
        | Kind::UnknownShard
        | Kind::StaleEpoch
        | Kind::BadVoters
        | Kind::NamedTwice
        | Kind::TooManyShards => node_refusal_of_kind(kind, limit).map(CommandRefusal::from),
    }
}

fn node_refusal_of_kind(kind: Kind, limit: u64) -> Option<NodeRefusal> {
    let node = NodeId::from(limit);
    match kind {
        Kind::NodeZero => Some(NodeRefusal::ZeroNodeId),
        Kind::UnknownNode => Some(NodeRefusal::UnknownNode { node }),
        Kind::NodeRemoved => Some(NodeRefusal::NodeRemoved { node }),
        Kind::UnknownRegion => Some(NodeRefusal::UnknownRegion),
        Kind::OtherRegion => Some(NodeRefusal::WrongRegion { node }),
        Kind::BadAddress => Some(NodeRefusal::InvalidAddress { limit }),
        Kind::AddressTaken => Some(NodeRefusal::AddressTaken { node }),
        Kind::LongVersion => Some(NodeRefusal::VersionTooLong { limit }),
        Kind::NoState => Some(NodeRefusal::MissingState),
        Kind::OtherState => Some(NodeRefusal::UnexpectedState { node }),
        Kind::UnknownShard => Some(NodeRefusal::UnknownShard { shards: limit }),
        Kind::StaleEpoch => Some(NodeRefusal::StaleEpoch { epoch: limit }),
        Kind::BadVoters => Some(NodeRefusal::InvalidVoterCount { voters: limit }),
        Kind::NamedTwice => Some(NodeRefusal::DuplicateMember { node }),
        Kind::TooManyShards => Some(NodeRefusal::TooManyShards { limit }),
        Kind::Unspecified
        | Kind::Bootstrapped
        | Kind::UnknownBucket
        | Kind::UnknownAccount
        | Kind::NameTaken
        | Kind::AccessNotInPlan
        | Kind::TooManyBuckets
        | Kind::TooManyAccounts
        | Kind::ClusterFull
        | Kind::Malformed
        | Kind::RegionJoining
        | Kind::RegionLeaving
        | Kind::LastRegion
        | Kind::NoSuchRegion => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn id(number: u64) -> NodeId {
        NodeId::from(number)
    }

    /// Enumerates all refusals, one after the other. A new variant doesn't compile until it is
    /// added here.
    fn next_refusal(refusal: Option<CommandRefusal>) -> Option<CommandRefusal> {
        match refusal {
            None => Some(CommandRefusal::AlreadyBootstrapped),
            Some(CommandRefusal::AlreadyBootstrapped) => Some(CommandRefusal::UnknownBucket),
            Some(CommandRefusal::UnknownBucket) => Some(CommandRefusal::UnknownAccount),
            Some(CommandRefusal::UnknownAccount) => Some(CommandRefusal::NameTaken),
            Some(CommandRefusal::NameTaken) => Some(CommandRefusal::AccessNotInPlan),
            Some(CommandRefusal::AccessNotInPlan) => {
                Some(CommandRefusal::TooManyBuckets { limit: u64::MAX })
            }
            Some(CommandRefusal::TooManyBuckets { .. }) => Some(CommandRefusal::TooManyAccounts),
            Some(CommandRefusal::TooManyAccounts) => Some(CommandRefusal::ClusterFull),
            Some(CommandRefusal::ClusterFull) => Some(CommandRefusal::Malformed),
            Some(CommandRefusal::Malformed) => Some(CommandRefusal::RegionJoining { region: 3 }),
            Some(CommandRefusal::RegionJoining { .. }) => {
                Some(CommandRefusal::RegionBeingRemoved { region: 4 })
            }
            Some(CommandRefusal::RegionBeingRemoved { .. }) => Some(CommandRefusal::LastRegion),
            Some(CommandRefusal::LastRegion) => Some(CommandRefusal::NoSuchRegion),
            Some(CommandRefusal::NoSuchRegion) => next_node_refusal(None).map(CommandRefusal::Node),
            Some(CommandRefusal::Node(refusal)) => {
                next_node_refusal(Some(refusal)).map(CommandRefusal::Node)
            }
        }
    }

    fn next_node_refusal(refusal: Option<NodeRefusal>) -> Option<NodeRefusal> {
        use NodeRefusal as R;
        match refusal {
            None => Some(R::ZeroNodeId),
            Some(R::ZeroNodeId) => Some(R::UnknownNode { node: id(7) }),
            Some(R::UnknownNode { .. }) => Some(R::NodeRemoved { node: id(u64::MAX) }),
            Some(R::NodeRemoved { .. }) => Some(R::UnknownRegion),
            Some(R::UnknownRegion) => Some(R::WrongRegion { node: id(9) }),
            Some(R::WrongRegion { .. }) => Some(R::InvalidAddress { limit: 255 }),
            Some(R::InvalidAddress { .. }) => Some(R::AddressTaken { node: id(11) }),
            Some(R::AddressTaken { .. }) => Some(R::VersionTooLong { limit: 254 }),
            Some(R::VersionTooLong { .. }) => Some(R::MissingState),
            Some(R::MissingState) => Some(R::UnexpectedState { node: id(13) }),
            Some(R::UnexpectedState { .. }) => Some(R::UnknownShard { shards: 8 }),
            Some(R::UnknownShard { .. }) => Some(R::StaleEpoch { epoch: 3 }),
            Some(R::StaleEpoch { .. }) => Some(R::InvalidVoterCount { voters: 2 }),
            Some(R::InvalidVoterCount { .. }) => Some(R::DuplicateMember { node: id(12) }),
            Some(R::DuplicateMember { .. }) => Some(R::TooManyShards { limit: 65_535 }),
            Some(R::TooManyShards { .. }) => None,
        }
    }

    fn round_trip(response: &CommandResult) -> Result<CommandResult, ResponseDecodeError> {
        from_pb(pb::MetaResponse::decode(to_pb(response).encode_to_vec().as_slice()).unwrap())
    }

    #[test]
    fn every_answer_comes_back_as_it_was_sent() {
        assert_eq!(round_trip(&Ok(())), Ok(Ok(())));
        let refusals: Vec<_> =
            std::iter::successors(next_refusal(None), |at| next_refusal(Some(*at))).collect();
        assert_eq!(refusals.len(), 28);
        for refusal in refusals {
            assert_eq!(round_trip(&Err(refusal)), Ok(Err(refusal)));
        }
    }

    #[test]
    fn every_node_refusal_comes_back_with_its_value() {
        let refusals =
            std::iter::successors(next_node_refusal(None), |at| next_node_refusal(Some(*at)));
        assert_eq!(refusals.clone().count(), 15);
        for refusal in refusals {
            let wire = pb::MetaRefusal::from(refusal);
            assert_eq!(wire.text, refusal.to_string());
            assert_eq!(node_refusal_of_kind(wire.kind(), wire.limit), Some(refusal));
            assert_eq!(CommandRefusal::try_from(wire), Ok(refusal.into()));
        }
    }

    #[test]
    fn a_reason_of_a_later_version_is_an_error_with_its_text() {
        for kind in [0, 19, 1000, -1] {
            let text = "the moon is full".to_owned();
            let refused = pb::MetaRefusal {
                kind,
                limit: 1,
                text: text.clone(),
            };
            let response = pb::MetaResponse {
                kind: Some(Answer::Refused(refused)),
            };
            let error = from_pb(response).unwrap_err();
            assert!(error.to_string().contains(&text), "{error}");
            assert_eq!(error, ResponseDecodeError::UnknownRefusal { kind, text });
        }
    }

    #[test]
    fn an_empty_answer_is_no_success() {
        for kind in [None, Some(Answer::Done(false))] {
            assert_eq!(
                from_pb(pb::MetaResponse { kind }),
                Err(ResponseDecodeError::Empty)
            );
        }
    }
}
