//! Sending, receiving, acknowledging.
//!
//! A leader's stream has no state of its own. Its position is the acknowledged one, or the end of a
//! message in flight: a new leader begins again at the former.

use crate::network::{Batch, Message, MessageBody};
use crate::record::{MAX_KEYS, Records};
use crate::region::{Mode, Region};
use crate::rules::Rules;
use crate::world::World;

/// Delivery of the acknowledgement of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AckDelivery {
    InTime,
    Lost,
    Late,
}

impl World {
    /// Returns the position of the stream from `origin` to `peer`.
    pub(crate) fn position(&self, origin: usize, peer: usize) -> u8 {
        let acked = self.acked(origin, peer);
        let messages = self.in_flight.iter().filter(|message| {
            message.is_between(origin, peer)
                && message.origin_incarnation == self.regions[origin].incarnation
                && message.peer_incarnation == self.regions[peer].incarnation
        });
        messages
            .map(Message::position)
            .max()
            .unwrap_or(0)
            .max(acked)
    }

    pub(crate) fn acked(&self, origin: usize, peer: usize) -> u8 {
        self.regions[origin].peers[peer].map_or(0, |peer| peer.acked)
    }

    /// Returns the batch after `from`, up to the last change or to the first one.
    pub(crate) fn batch(
        &self,
        origin: usize,
        peer: usize,
        from: u8,
        first_only: bool,
        rules: &Rules,
    ) -> Option<Message> {
        let region = &self.regions[origin];
        let to = if first_only {
            region
                .first_seq_after(from)
                .filter(|to| *to < region.last_seq)?
        } else {
            region.last_seq
        };
        (to > from).then(|| self.message(region, peer, (from, to), rules))
    }

    /// Returns the heartbeat at the stream's position, if it has news for the peer.
    pub(crate) fn heartbeat(&self, origin: usize, peer: usize, rules: &Rules) -> Option<Message> {
        let position = self.position(origin, peer);
        let message = self.message(&self.regions[origin], peer, (position, position), rules);
        let known = self.regions[peer].peers[origin]?;
        let MessageBody::Batch(batch) = &message.body else {
            return None;
        };
        let has_news = batch.watermark > known.watermark || batch.stable > known.stable;
        has_news.then_some(message)
    }

    fn message(&self, region: &Region, peer: usize, span: (u8, u8), rules: &Rules) -> Message {
        let (from, to) = span;
        let changes = region.changes(from, to, peer);
        let mut seqs = [0; MAX_KEYS];
        for key in 0..MAX_KEYS {
            if changes[key].is_some() {
                seqs[key] = region.entries[key].map_or(0, |entry| entry.seq);
            }
        }
        Message {
            origin: region.id,
            origin_incarnation: region.incarnation,
            peer: peer as u8,
            peer_incarnation: region.peers[peer].map_or(0, |peer| peer.incarnation),
            body: MessageBody::Batch(Batch {
                from,
                to,
                watermark: region.watermark(to, rules),
                stable: region.acked_by_all(rules),
                changes,
                seqs,
            }),
        }
    }

    /// Merges a batch at the peer; returns its cursor if it answers.
    pub(crate) fn merge(&mut self, message: &Message, batch: &Batch, rules: &Rules) -> Option<u8> {
        let (origin, peer) = (usize::from(message.origin), usize::from(message.peer));
        let region = &mut self.regions[peer];
        let merged = merge(region, message, batch, rules)?;
        self.guard_hit |= merged.guard_hit;
        let answers = self.regions[peer].is_serving() || !rules.ack_after_copy;
        answers.then(|| self.regions[peer].peers[origin].map_or(0, |peer| peer.cursor))
    }

    /// Records a peer's acknowledgement at the origin.
    pub(crate) fn receive_ack(&mut self, message: &Message, cursor: u8, rules: &Rules) {
        let region = &mut self.regions[usize::from(message.origin)];
        let peer = usize::from(message.peer);
        let known = region.peers[peer].is_some_and(|known| {
            known.incarnation == message.peer_incarnation || !rules.ack_names_receiver
        });
        let ours = region.incarnation == message.origin_incarnation || !rules.incarnation_checked;
        if known && ours && region.mode != Mode::Lost {
            region.acknowledge(peer, cursor, rules);
        }
    }
}

struct MergeOutcome {
    guard_hit: bool,
}

/// Applies the replicated entry `Merge`; returns `None` if the stream is refused.
fn merge(
    region: &mut Region,
    message: &Message,
    batch: &Batch,
    rules: &Rules,
) -> Option<MergeOutcome> {
    if !matches!(region.mode, Mode::Serving | Mode::Joining) {
        return None;
    }
    let origin = usize::from(message.origin);
    let known = region.peers[origin]?;
    let incarnation_fits =
        known.incarnation == message.origin_incarnation || !rules.incarnation_checked;
    if known.fenced || !incarnation_fits {
        return None;
    }
    let mut merged = MergeOutcome { guard_hit: false };
    let is_heartbeat = batch.from == batch.to;
    let starts = batch.from <= known.cursor || (!rules.merge_starts_at_cursor && !is_heartbeat);
    let ends = batch.to > known.cursor || is_heartbeat || !rules.merge_ends_past_cursor;
    if !starts || !ends {
        return Some(merged);
    }
    let honours_watermarks = region.is_serving() || !rules.joining_ignores_watermarks;
    let mut moves_cursor = is_heartbeat || rules.skipped_moves_cursor;
    for (key, record) in changes(&batch.changes) {
        let is_own = record.version.region == region.id;
        let is_announced = honours_watermarks && record.version.time <= known.watermark;
        if rules.guard && (is_own || is_announced) {
            merged.guard_hit |= batch.seqs[key] > known.cursor;
            continue;
        }
        let before = region.records[key];
        region.merge_record(key, record, rules);
        moves_cursor |= region.records[key] != before;
    }
    if let Some(known) = &mut region.peers[origin] {
        if moves_cursor {
            known.cursor = known.cursor.max(batch.to);
        }
        known.watermark = known.watermark.max(batch.watermark);
        known.stable = known.stable.max(batch.stable);
    }
    Some(merged)
}

/// Returns the existing records with their keys.
pub(crate) fn changes(
    records: &Records,
) -> impl Iterator<Item = (usize, crate::record::Record)> + '_ {
    let existing = |(key, record): (usize, &Option<_>)| record.map(|record| (key, record));
    records.iter().enumerate().filter_map(existing)
}
