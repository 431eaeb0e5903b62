//! Messages in flight between regions.
//!
//! The network keeps no order. It is a set: a message stays until it is delivered or lost, and,
//! while the bounds allow it, beyond its delivery. That covers streams that break, repeat and
//! deliver late, and merges that a receiver's leaders propose out of order.

use crate::record::Records;

/// A message of the history of `origin` between `origin` and `peer`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub origin: u8,
    pub origin_incarnation: u8,
    pub peer: u8,
    pub peer_incarnation: u8,
    pub body: MessageBody,
}

/// Content of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MessageBody {
    /// From origin to peer.
    Batch(Batch),
    /// From peer to origin: the peer's cursor.
    Ack(u8),
}

/// Changes after `from` up to `to`. A heartbeat has none, and `from` is `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub from: u8,
    pub to: u8,
    pub watermark: u8,
    pub stable: u8,
    pub changes: Records,
    /// Sequences of the changes (for the properties only).
    pub seqs: [u8; crate::record::MAX_KEYS],
}

impl Message {
    pub(crate) fn is_between(&self, origin: usize, peer: usize) -> bool {
        usize::from(self.origin) == origin && usize::from(self.peer) == peer
    }

    /// Returns the position of the origin's stream after it has sent or received this message.
    pub(crate) fn position(&self) -> u8 {
        match &self.body {
            MessageBody::Batch(batch) => batch.to,
            MessageBody::Ack(cursor) => *cursor,
        }
    }
}
