//! Refusals of calls from a group's other members.

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::reply;

/// Builds a refusal: nothing was done.
pub(crate) fn not_here_reply(message: impl Into<String>) -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: pb::refused::Reason::NotHere.into(),
        message: message.into(),
        leader: 0,
    })
}
