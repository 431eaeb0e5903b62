//! Conversion of metadata responses to and from messages between nodes, without loss.
//!
//! A peer of a later version may refuse for a reason that this version doesn't know. That is an
//! error here, with the peer's own text, and never taken for another reason.

use cloudkv_proto::v1::{self as pb, meta_refusal::Kind, meta_response::Kind as Answer};

use super::buckets::Refusal;
use super::node_refusal::NodeRefusal;
use super::state::Response;

/// Reason why a response can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
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
pub fn to_pb(response: &Response) -> pb::MetaResponse {
    let kind = match response {
        Ok(()) => Answer::Done(true),
        Err(refusal) => Answer::Refused((*refusal).into()),
    };
    pb::MetaResponse { kind: Some(kind) }
}

/// Decodes a response.
pub fn from_pb(response: pb::MetaResponse) -> Result<Response, WireError> {
    match response.kind {
        Some(Answer::Done(true)) => Ok(Ok(())),
        Some(Answer::Refused(refused)) => refused.try_into().map(Err),
        Some(Answer::Done(false)) | None => Err(WireError::Empty),
    }
}

impl From<Refusal> for pb::MetaRefusal {
    fn from(refusal: Refusal) -> Self {
        let (kind, limit) = match refusal {
            Refusal::Founded => (Kind::Founded, 0),
            Refusal::UnknownBucket => (Kind::UnknownBucket, 0),
            Refusal::UnknownAccount => (Kind::UnknownAccount, 0),
            Refusal::NameTaken => (Kind::NameTaken, 0),
            Refusal::AccessNotInPlan => (Kind::AccessNotInPlan, 0),
            Refusal::TooManyBuckets { limit } => (Kind::TooManyBuckets, limit),
            Refusal::TooManyAccounts => (Kind::TooManyAccounts, 0),
            Refusal::ClusterFull => (Kind::ClusterFull, 0),
            Refusal::Malformed => (Kind::Malformed, 0),
            Refusal::RegionJoining { region } => (Kind::RegionJoining, u64::from(region)),
            Refusal::RegionLeaving { region } => (Kind::RegionLeaving, u64::from(region)),
            Refusal::LastRegion => (Kind::LastRegion, 0),
            Refusal::NoSuchRegion => (Kind::NoSuchRegion, 0),
            Refusal::Node(refusal) => return refusal.into(),
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
            NodeRefusal::Zero => (Kind::NodeZero, 0),
            NodeRefusal::Unknown { node } => (Kind::UnknownNode, node),
            NodeRefusal::Removed { node } => (Kind::NodeRemoved, node),
            NodeRefusal::UnknownRegion => (Kind::UnknownRegion, 0),
            NodeRefusal::OtherRegion { node } => (Kind::OtherRegion, node),
            NodeRefusal::BadAddress { limit } => (Kind::BadAddress, limit),
            NodeRefusal::AddressTaken { node } => (Kind::AddressTaken, node),
            NodeRefusal::LongVersion { limit } => (Kind::LongVersion, limit),
            NodeRefusal::NoState => (Kind::NoState, 0),
            NodeRefusal::OtherState { node } => (Kind::OtherState, node),
            NodeRefusal::UnknownShard { shards } => (Kind::UnknownShard, shards),
            NodeRefusal::StaleEpoch { epoch } => (Kind::StaleEpoch, epoch),
            NodeRefusal::BadVoters { voters } => (Kind::BadVoters, voters),
            NodeRefusal::NamedTwice { node } => (Kind::NamedTwice, node),
            NodeRefusal::TooManyShards { limit } => (Kind::TooManyShards, limit),
        };
        Self {
            kind: kind.into(),
            limit,
            text: refusal.to_string(),
        }
    }
}

impl TryFrom<pb::MetaRefusal> for Refusal {
    type Error = WireError;

    fn try_from(refused: pb::MetaRefusal) -> Result<Self, WireError> {
        // A number that this version doesn't know is read as no kind.
        refusal(refused.kind(), refused.limit).ok_or(WireError::UnknownRefusal {
            kind: refused.kind,
            text: refused.text,
        })
    }
}

fn refusal(kind: Kind, limit: u64) -> Option<Refusal> {
    match kind {
        Kind::Unspecified => None,
        Kind::Founded => Some(Refusal::Founded),
        Kind::UnknownBucket => Some(Refusal::UnknownBucket),
        Kind::UnknownAccount => Some(Refusal::UnknownAccount),
        Kind::NameTaken => Some(Refusal::NameTaken),
        Kind::AccessNotInPlan => Some(Refusal::AccessNotInPlan),
        Kind::TooManyBuckets => Some(Refusal::TooManyBuckets { limit }),
        Kind::TooManyAccounts => Some(Refusal::TooManyAccounts),
        Kind::ClusterFull => Some(Refusal::ClusterFull),
        Kind::Malformed => Some(Refusal::Malformed),
        Kind::RegionJoining => Some(Refusal::RegionJoining {
            region: u32::try_from(limit).unwrap_or(0),
        }),
        Kind::RegionLeaving => Some(Refusal::RegionLeaving {
            region: u32::try_from(limit).unwrap_or(0),
        }),
        Kind::LastRegion => Some(Refusal::LastRegion),
        Kind::NoSuchRegion => Some(Refusal::NoSuchRegion),
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
        | Kind::TooManyShards => node_refusal(kind, limit).map(Refusal::from),
    }
}

fn node_refusal(kind: Kind, limit: u64) -> Option<NodeRefusal> {
    let node = limit;
    match kind {
        Kind::NodeZero => Some(NodeRefusal::Zero),
        Kind::UnknownNode => Some(NodeRefusal::Unknown { node }),
        Kind::NodeRemoved => Some(NodeRefusal::Removed { node }),
        Kind::UnknownRegion => Some(NodeRefusal::UnknownRegion),
        Kind::OtherRegion => Some(NodeRefusal::OtherRegion { node }),
        Kind::BadAddress => Some(NodeRefusal::BadAddress { limit }),
        Kind::AddressTaken => Some(NodeRefusal::AddressTaken { node }),
        Kind::LongVersion => Some(NodeRefusal::LongVersion { limit }),
        Kind::NoState => Some(NodeRefusal::NoState),
        Kind::OtherState => Some(NodeRefusal::OtherState { node }),
        Kind::UnknownShard => Some(NodeRefusal::UnknownShard { shards: limit }),
        Kind::StaleEpoch => Some(NodeRefusal::StaleEpoch { epoch: limit }),
        Kind::BadVoters => Some(NodeRefusal::BadVoters { voters: limit }),
        Kind::NamedTwice => Some(NodeRefusal::NamedTwice { node }),
        Kind::TooManyShards => Some(NodeRefusal::TooManyShards { limit }),
        Kind::Unspecified
        | Kind::Founded
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

    /// Enumerates all refusals, one after the other. A new variant doesn't compile until it is
    /// added here.
    fn after(refusal: Option<Refusal>) -> Option<Refusal> {
        match refusal {
            None => Some(Refusal::Founded),
            Some(Refusal::Founded) => Some(Refusal::UnknownBucket),
            Some(Refusal::UnknownBucket) => Some(Refusal::UnknownAccount),
            Some(Refusal::UnknownAccount) => Some(Refusal::NameTaken),
            Some(Refusal::NameTaken) => Some(Refusal::AccessNotInPlan),
            Some(Refusal::AccessNotInPlan) => Some(Refusal::TooManyBuckets { limit: u64::MAX }),
            Some(Refusal::TooManyBuckets { .. }) => Some(Refusal::TooManyAccounts),
            Some(Refusal::TooManyAccounts) => Some(Refusal::ClusterFull),
            Some(Refusal::ClusterFull) => Some(Refusal::Malformed),
            Some(Refusal::Malformed) => Some(Refusal::RegionJoining { region: 3 }),
            Some(Refusal::RegionJoining { .. }) => Some(Refusal::RegionLeaving { region: 4 }),
            Some(Refusal::RegionLeaving { .. }) => Some(Refusal::LastRegion),
            Some(Refusal::LastRegion) => Some(Refusal::NoSuchRegion),
            Some(Refusal::NoSuchRegion) => node_after(None).map(Refusal::Node),
            Some(Refusal::Node(refusal)) => node_after(Some(refusal)).map(Refusal::Node),
        }
    }

    fn node_after(refusal: Option<NodeRefusal>) -> Option<NodeRefusal> {
        use NodeRefusal as R;
        match refusal {
            None => Some(R::Zero),
            Some(R::Zero) => Some(R::Unknown { node: 7 }),
            Some(R::Unknown { .. }) => Some(R::Removed { node: u64::MAX }),
            Some(R::Removed { .. }) => Some(R::UnknownRegion),
            Some(R::UnknownRegion) => Some(R::OtherRegion { node: 9 }),
            Some(R::OtherRegion { .. }) => Some(R::BadAddress { limit: 255 }),
            Some(R::BadAddress { .. }) => Some(R::AddressTaken { node: 11 }),
            Some(R::AddressTaken { .. }) => Some(R::LongVersion { limit: 254 }),
            Some(R::LongVersion { .. }) => Some(R::NoState),
            Some(R::NoState) => Some(R::OtherState { node: 13 }),
            Some(R::OtherState { .. }) => Some(R::UnknownShard { shards: 8 }),
            Some(R::UnknownShard { .. }) => Some(R::StaleEpoch { epoch: 3 }),
            Some(R::StaleEpoch { .. }) => Some(R::BadVoters { voters: 2 }),
            Some(R::BadVoters { .. }) => Some(R::NamedTwice { node: 12 }),
            Some(R::NamedTwice { .. }) => Some(R::TooManyShards { limit: 65_535 }),
            Some(R::TooManyShards { .. }) => None,
        }
    }

    fn sent(response: &Response) -> Result<Response, WireError> {
        from_pb(pb::MetaResponse::decode(to_pb(response).encode_to_vec().as_slice()).unwrap())
    }

    #[test]
    fn every_answer_comes_back_as_it_was_sent() {
        assert_eq!(sent(&Ok(())), Ok(Ok(())));
        let refusals: Vec<_> = std::iter::successors(after(None), |at| after(Some(*at))).collect();
        assert_eq!(refusals.len(), 28);
        for refusal in refusals {
            assert_eq!(sent(&Err(refusal)), Ok(Err(refusal)));
        }
    }

    #[test]
    fn every_node_refusal_comes_back_with_its_value() {
        let refusals = std::iter::successors(node_after(None), |at| node_after(Some(*at)));
        assert_eq!(refusals.clone().count(), 15);
        for refusal in refusals {
            let wire = pb::MetaRefusal::from(refusal);
            assert_eq!(wire.text, refusal.to_string());
            assert_eq!(node_refusal(wire.kind(), wire.limit), Some(refusal));
            assert_eq!(Refusal::try_from(wire), Ok(refusal.into()));
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
            assert_eq!(error, WireError::UnknownRefusal { kind, text });
        }
    }

    #[test]
    fn an_empty_answer_is_no_success() {
        for kind in [None, Some(Answer::Done(false))] {
            assert_eq!(from_pb(pb::MetaResponse { kind }), Err(WireError::Empty));
        }
    }
}
