//! The dispatcher of a node: positions of all shards, and the hubs of the watched buckets.
//!
//! Positions move and changes reach the rings under one lock, under which streams join as well. So
//! a stream that joins gets all changes behind the positions that it is told, and no others; and
//! the positions of an event's token are past nothing that comes behind it in its ring.
//!
//! Invariant: no lock of a ring is held while this one is taken. Streams are woken without any.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::buffer::{BufferBounds, BufferedBytes};
use super::end::WatchEnd;
use super::event::{WatchEvent, told_position};
use super::hub::{ChangedRings, Hub};
use super::ring::EventRing;
use super::token::{RegionHistory, TokenWriter};
use crate::meta::Bucket;
use crate::shard::{ChangesPage, shard_of};
use crate::types::{Access, BucketId, KeyChange, KeyChangeKind, KeyFilter};

/// Positions and hubs.
pub(super) struct Dispatcher {
    shards: u16,
    history: RegionHistory,
    bounds: BufferBounds,
    /// Bytes of the events in all rings.
    buffered: Arc<AtomicUsize>,
    state: Mutex<DispatcherState>,
    /// Notified when positions have moved.
    progress: Notify,
    scope: watch::Sender<Scope>,
}

/// Buckets whose changes are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Only this one.
    Bucket(BucketId),
    /// Possibly several.
    All,
}

/// A run of the tasks that follow the shards.
#[derive(Clone)]
pub(super) struct Run {
    /// Number of the run.
    pub number: u64,
    /// Ends the tasks.
    pub stop: CancellationToken,
}

/// Outcome of applying a page of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageOutcome {
    Applied,
    /// The page lacks changes of a bucket that is watched by now: it has to be read again.
    Rejected,
    /// The run is over.
    Stopped,
}

/// Place of a stream that has just joined.
pub(super) struct Joined {
    pub ring: Arc<EventRing>,
    pub cursor: u64,
    pub changed: watch::Receiver<()>,
    /// Positions behind which the stream gets all changes.
    pub positions: Vec<u64>,
}

#[derive(Default)]
struct DispatcherState {
    run: Option<Run>,
    /// Number of runs so far.
    runs: u64,
    is_draining: bool,
    /// Position in the log of each shard.
    positions: Vec<u64>,
    /// True where the position is known.
    is_known: Vec<bool>,
    /// True where the shard has a leader.
    is_serving: Vec<bool>,
    hubs: HashMap<BucketId, Hub>,
}

impl DispatcherState {
    fn is_run(&self, number: u64) -> bool {
        self.run.as_ref().is_some_and(|run| run.number == number)
    }

    fn are_positions_known(&self) -> bool {
        self.run.is_some() && self.is_known.iter().all(|is_known| *is_known)
    }

    fn is_serving(&self, shards: &Range<u16>) -> bool {
        let mut shards = shards.clone().map(usize::from);
        shards.all(|shard| {
            self.is_serving
                .get(shard)
                .is_none_or(|is_serving| *is_serving)
        })
    }
}

impl Dispatcher {
    pub(super) fn new(shards: u16, history: RegionHistory, bounds: BufferBounds) -> Self {
        Self {
            shards,
            history,
            bounds,
            buffered: Arc::default(),
            state: Mutex::default(),
            progress: Notify::new(),
            scope: watch::channel(Scope::All).0,
        }
    }

    /// Begins a run, unless there is one, or the node stops.
    pub(super) fn begin_run(&self) -> Option<Run> {
        let state = &mut *self.state.lock();
        if state.is_draining || state.run.is_some() {
            return None;
        }
        let shards = usize::from(self.shards);
        state.runs += 1;
        state.positions = vec![0; shards];
        state.is_known = vec![false; shards];
        state.is_serving = vec![true; shards];
        let run = Run {
            number: state.runs,
            stop: CancellationToken::new(),
        };
        state.run = Some(run.clone());
        Some(run)
    }

    /// Ends a run if nobody watches any more, as `is_idle` says; returns whether it has ended.
    pub(super) fn end_run_if(&self, number: u64, is_idle: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        // Streams that start are counted before they look for a run.
        if state.is_run(number) && state.hubs.is_empty() && is_idle() {
            stop_run(&mut state);
        }
        !state.is_run(number)
    }

    /// Ends all streams, and refuses later ones.
    pub(super) fn drain(&self) {
        self.change(|state, changed| {
            state.is_draining = true;
            stop_run(state);
            for (_, mut hub) in state.hubs.drain() {
                hub.finish(WatchEnd::Draining, |_| true, changed);
            }
        });
    }

    /// Returns whether all these shards have a leader, as far as is known.
    pub(super) fn is_serving(&self, shards: &Range<u16>) -> bool {
        self.state.lock().is_serving(shards)
    }

    /// Returns the bytes of the events in all rings.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// Subscribes to the buckets whose changes are needed.
    pub(super) fn scope(&self) -> watch::Receiver<Scope> {
        self.scope.subscribe()
    }

    /// Sets the position from which a shard is followed.
    pub(super) fn begin_shard(&self, run: u64, shard: u16, position: u64) {
        self.change(|state, _| {
            if state.is_run(run) {
                state.positions[usize::from(shard)] = position;
                state.is_known[usize::from(shard)] = true;
            }
        });
        self.progress.notify_waiters();
    }

    /// Appends the next changes of a shard, which were read for `scope`, to the rings of those who
    /// watch, and moves the shard's position behind them.
    pub(super) fn apply(
        &self,
        run: u64,
        shard: u16,
        scope: Scope,
        page: ChangesPage,
    ) -> PageOutcome {
        let outcome = self.change(|state, changed| {
            if !state.is_run(run) {
                return PageOutcome::Stopped;
            }
            if scope != Scope::All && scope != *self.scope.borrow() {
                return PageOutcome::Rejected;
            }
            self.push_changes(state, usize::from(shard), page.changes, changed);
            let position = &mut state.positions[usize::from(shard)];
            *position = page.up_to.max(*position);
            PageOutcome::Applied
        });
        self.progress.notify_waiters();
        outcome
    }

    fn push_changes(
        &self,
        state: &mut DispatcherState,
        shard: usize,
        changes: Vec<KeyChange>,
        changed: &mut ChangedRings,
    ) {
        let (positions, hubs) = (&mut state.positions, &mut state.hubs);
        // Events of one entry and bucket mostly have the same token.
        let mut last: Option<(BucketId, u64, Arc<str>)> = None;
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            if change.kind == KeyChangeKind::BucketDropped {
                if let Some(mut hub) = hubs.remove(&change.bucket) {
                    hub.finish(WatchEnd::BucketDeleted, |_| true, changed);
                }
                continue;
            }
            let hub = hubs.get(&change.bucket);
            let Some(hub) = hub.filter(|hub| hub.is_watched(&change.key)) else {
                continue;
            };
            let next = changes.peek().map(|next| next.index);
            positions[shard] = told_position(&change, next).max(positions[shard]);
            let (bucket, position) = (change.bucket, positions[shard]);
            let token = match &last {
                Some((of, at, token)) if (*of, *at) == (bucket, position) => token.clone(),
                _ => hub.tokens.positions(positions),
            };
            last = Some((bucket, position, token.clone()));
            let event = Arc::new(WatchEvent::new(change, token, &hub.buffered));
            hub.push(&event, changed);
            self.enforce_bounds(hub, hubs, changed);
        }
    }

    /// Lets the slowest streams lose their place while there are too many bytes.
    fn enforce_bounds(&self, hub: &Hub, hubs: &HashMap<BucketId, Hub>, changed: &mut ChangedRings) {
        while hub.buffered.of_bucket() > self.bounds.bucket && hub.evict(changed) {}
        while self.buffered_bytes() > self.bounds.total {
            let largest = hubs.values().max_by_key(|hub| hub.buffered.of_bucket());
            if !largest.is_some_and(|hub| hub.evict(changed)) {
                return;
            }
        }
    }

    /// Enforces the bounds after a bucket's events have become larger.
    pub(super) fn check_bounds(&self, bucket: &BucketId) {
        self.change(|state, changed| {
            if let Some(hub) = state.hubs.get(bucket) {
                self.enforce_bounds(hub, &state.hubs, changed);
            }
        });
    }

    /// Skips to an entry of a shard, since no memory has all changes before it: all streams that
    /// may have missed one lose their place.
    pub(super) fn skip_to(&self, run: u64, shard: u16, position: u64) {
        self.change(|state, changed| {
            if !state.is_run(run) {
                return;
            }
            state.positions[usize::from(shard)] = position;
            for (bucket, hub) in &state.hubs {
                let is_of_shard = |key: &[u8]| self.shard_of(bucket, key) == shard;
                hub.lose_all(is_of_shard, changed);
            }
        });
        self.progress.notify_waiters();
    }

    /// Sets whether a shard has a leader. Without one, the streams that watch its keys end.
    pub(super) fn set_serving(&self, run: u64, shard: u16, is_serving: bool) {
        self.change(|state, changed| {
            if !state.is_run(run) {
                return;
            }
            state.is_serving[usize::from(shard)] = is_serving;
            if is_serving {
                return;
            }
            for (bucket, hub) in &mut state.hubs {
                let is_of_shard = |key: &[u8]| self.shard_of(bucket, key) == shard;
                hub.finish(WatchEnd::NotServing, is_of_shard, changed);
            }
            state.hubs.retain(|_, hub| !hub.is_empty());
        });
    }

    fn shard_of(&self, bucket: &BucketId, key: &[u8]) -> u16 {
        shard_of(bucket.as_bytes(), key, self.shards)
    }

    /// Waits until the positions of these shards have reached `targets`, and all are known.
    pub(super) async fn wait_for(&self, shards: &Range<u16>, targets: &[u64]) {
        let mut progress = pin!(self.progress.notified());
        loop {
            progress.as_mut().enable();
            if self.has_reached(shards, targets) {
                return;
            }
            progress.as_mut().await;
            progress.set(self.progress.notified());
        }
    }

    fn has_reached(&self, shards: &Range<u16>, targets: &[u64]) -> bool {
        let state = self.state.lock();
        let mut pairs = state.positions.iter().zip(targets).enumerate();
        let is_watched = |shard: usize| shards.clone().any(|watched| usize::from(watched) == shard);
        state.are_positions_known()
            && pairs.all(|(shard, (position, target))| position >= target || !is_watched(shard))
    }

    /// Returns the position in each shard; `None` while they aren't all known.
    pub(super) fn positions(&self) -> Option<Vec<u64>> {
        let state = self.state.lock();
        state.are_positions_known().then(|| state.positions.clone())
    }

    /// Lets a stream join that watches keys of these shards.
    pub(super) fn join(
        &self,
        bucket: &Bucket,
        filter: &KeyFilter,
        shards: &Range<u16>,
    ) -> Result<Joined, WatchEnd> {
        self.change(|state, changed| {
            if state.is_draining {
                return Err(WatchEnd::Draining);
            }
            if !state.are_positions_known() || !state.is_serving(shards) {
                return Err(WatchEnd::NotServing);
            }
            let outdated = state.hubs.get(&bucket.id);
            if outdated.is_some_and(|hub| hub.access != bucket.access)
                && let Some(mut hub) = state.hubs.remove(&bucket.id)
            {
                hub.finish(WatchEnd::AccessChanged, |_| true, changed);
            }
            let hub = state.hubs.entry(bucket.id).or_insert_with(|| {
                let tokens = TokenWriter::new(&bucket.id, self.history);
                Hub::new(
                    bucket.access,
                    tokens,
                    BufferedBytes::new(self.buffered.clone()),
                )
            });
            let ring = hub.ring(filter);
            // Subscribed first, so that it is woken for all that comes from now on.
            let changed = ring.subscribe();
            Ok(Joined {
                cursor: ring.join(),
                ring,
                changed,
                positions: state.positions.clone(),
            })
        })
    }

    /// Removes a stream.
    pub(super) fn leave(
        &self,
        bucket: &BucketId,
        filter: &KeyFilter,
        ring: &Arc<EventRing>,
        cursor: u64,
    ) {
        self.change(|state, _| {
            if ring.leave(cursor)
                && let Some(hub) = state.hubs.get_mut(bucket)
                && hub.remove_ring(filter, ring)
            {
                state.hubs.remove(bucket);
            }
        });
    }

    /// Returns the positions behind which a stream goes on if it was told all events of its ring;
    /// `None` if there are more, or it has lost its place.
    pub(super) fn positions_behind(&self, ring: &EventRing, cursor: u64) -> Option<Vec<u64>> {
        let state = self.state.lock();
        ring.has_all(cursor).then(|| state.positions.clone())
    }

    /// Returns the watched buckets, with the access mode that their watchers were authorized for.
    pub(super) fn watched_buckets(&self) -> Vec<(BucketId, Access)> {
        let state = self.state.lock();
        let hubs = state.hubs.iter();
        hubs.map(|(bucket, hub)| (*bucket, hub.access)).collect()
    }

    /// Ends the streams of a bucket that were authorized for this access mode.
    pub(super) fn end_bucket(&self, bucket: &BucketId, access: Access, end: WatchEnd) {
        self.change(|state, changed| {
            let hub = state.hubs.get(bucket);
            if hub.is_some_and(|hub| hub.access == access)
                && let Some(mut hub) = state.hubs.remove(bucket)
            {
                hub.finish(end, |_| true, changed);
            }
        });
    }

    /// Runs a change of the state under the lock, publishes the scope, and wakes streams after it.
    fn change<T>(&self, change: impl FnOnce(&mut DispatcherState, &mut ChangedRings) -> T) -> T {
        let mut changed = ChangedRings::new();
        let result = {
            let mut state = self.state.lock();
            let result = change(&mut state, &mut changed);
            self.publish_scope(&state);
            result
        };
        for ring in changed {
            ring.wake();
        }
        result
    }

    fn publish_scope(&self, state: &DispatcherState) {
        let scope = match state.hubs.keys().next() {
            Some(bucket) if state.hubs.len() == 1 => Scope::Bucket(*bucket),
            _ => Scope::All,
        };
        self.scope.send_if_modified(|current| {
            let is_changed = *current != scope;
            *current = scope;
            is_changed
        });
    }
}

fn stop_run(state: &mut DispatcherState) {
    if let Some(run) = state.run.take() {
        run.stop.cancel();
    }
}

#[cfg(test)]
#[path = "dispatcher_fixture.rs"]
mod fixture;
#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
