//! Tells what has changed since a stream's positions, from the shards' memories, until it can go on
//! with its ring.
//!
//! That takes rounds: each tells the changes up to where the dispatcher is when the round begins.
//! The stream joins its ring for the last one, which is short: so nothing large waits in the ring
//! meanwhile. Who can't keep up with the changes never gets there, and learns it when a memory
//! doesn't reach back any more, or from its ring.

use std::iter::Peekable;
use std::sync::Arc;

use super::end::WatchEnd;
use super::event::{WatchEvent, told_position};
use super::pin::StreamPin;
use super::reader::RingReader;
use super::watched::{Watched, event};
use crate::types::KeyChange;

/// Number of events of a round after which the next one is the last.
const SHORT_ROUND_EVENTS: usize = 100;
/// Maximum number of rounds.
const MAX_ROUNDS: u32 = 10;

/// Catching up of one stream.
pub(super) struct Backlog {
    /// Position of each shard up to which all was told.
    told: Vec<u64>,
    /// Positions at which the round ends.
    target: Vec<u64>,
    /// Place in the ring, in the last round.
    reader: Option<RingReader>,
    rounds: u32,
    round_events: usize,
    /// Keeps the changes since the positions, if that takes long.
    _pin: Option<StreamPin>,
}

/// Next part of a backlog.
pub(super) enum BacklogStep {
    /// Events to be told.
    Events(Vec<Arc<WatchEvent>>),
    /// All was told up to these positions, and the ring has what follows.
    Complete(RingReader, Vec<u64>),
    /// Changes are missing.
    TooOld,
}

impl Backlog {
    /// Begins behind these positions.
    pub(super) fn new(positions: Vec<u64>, pin: Option<StreamPin>) -> Self {
        Self {
            target: positions.clone(),
            told: positions,
            reader: None,
            rounds: 0,
            round_events: 0,
            _pin: pin,
        }
    }

    /// Reads what is told next. Cancel safe.
    pub(super) async fn step(&mut self, watched: &Watched) -> Result<BacklogStep, WatchEnd> {
        loop {
            watched.check()?;
            let Some(shard) = self.next_shard(watched) else {
                if let Some(reader) = self.reader.take() {
                    let positions = std::mem::take(&mut self.target);
                    return Ok(BacklogStep::Complete(reader, positions));
                }
                watched.wait_for(&self.told).await?;
                self.begin_round(watched)?;
                continue;
            };
            let index = usize::from(shard);
            let (after, up_to) = (self.told[index], self.target[index]);
            let Some(page) = watched.changes(shard, after, up_to).await? else {
                return Ok(BacklogStep::TooOld);
            };
            let events = self.events(watched, index, page.changes)?;
            self.told[index] = page.up_to;
            if !events.is_empty() {
                self.round_events += events.len();
                return Ok(BacklogStep::Events(events));
            }
        }
    }

    /// Returns a shard that has changes for this round.
    fn next_shard(&self, watched: &Watched) -> Option<u16> {
        let is_behind = |shard: &u16| {
            let index = usize::from(*shard);
            self.told.get(index) < self.target.get(index)
        };
        watched.shards.clone().find(is_behind)
    }

    fn begin_round(&mut self, watched: &Watched) -> Result<(), WatchEnd> {
        self.rounds += 1;
        let was_short = self.rounds > 1 && self.round_events <= SHORT_ROUND_EVENTS;
        if was_short || self.rounds >= MAX_ROUNDS {
            let (reader, positions) = watched.join_now()?;
            self.reader = Some(reader);
            self.target = positions;
        } else {
            let positions = watched.context.dispatcher.positions();
            self.target = positions.ok_or(WatchEnd::NotServing)?;
        }
        self.round_events = 0;
        // The other shards have nothing to tell.
        let positions = self.told.iter_mut().zip(&self.target).enumerate();
        for (shard, (told, target)) in positions {
            if !watched
                .shards
                .clone()
                .any(|watched| usize::from(watched) == shard)
            {
                *told = *target;
            }
        }
        Ok(())
    }

    /// Makes the events of a shard's changes. Each has the token of what is told after it.
    fn events(
        &mut self,
        watched: &Watched,
        shard: usize,
        changes: Vec<KeyChange>,
    ) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
        let mut events = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while let Some((change, position)) = next_change(&mut changes) {
            self.told[shard] = position.max(self.told[shard]);
            events.push(event(change, watched.tokens.positions(&self.told))?);
        }
        Ok(events)
    }
}

/// Returns the next change, and the position behind which a client goes on that was told it.
fn next_change(
    changes: &mut Peekable<impl Iterator<Item = KeyChange>>,
) -> Option<(KeyChange, u64)> {
    let change = changes.next()?;
    let position = told_position(&change, changes.peek().map(|next| next.index));
    Some((change, position))
}
