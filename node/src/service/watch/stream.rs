//! One stream of changes: what it tells next.
//!
//! ```text
//!            ┌─ token ─────────────────► backlog ──────┐
//!   start ───┼─ initial ──► initial ─────►             ├─► ready ──► ring ──► end
//!            └─ neither ───────────────────────────────┘
//! ```
//!
//! A stream whose changes are missing tells a reset, and begins anew: with what there is, if it was
//! to begin with that, else from now on.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep};

use super::admission::WatchPermit;
use super::backlog::{Backlog, BacklogStep};
use super::context::WatchContext;
use super::end::WatchEnd;
use super::event::WatchEvent;
use super::initial::{Initial, InitialStep};
use super::reader::RingReader;
use super::ring::Taken;
use super::settings::WatchRequest;
use super::token::ResumeToken;
use super::values;
use super::watched::Watched;
use crate::types::KeyInfo;

/// Maximum size of the events of one item, in bytes; it has one event in any case.
const MAX_ITEM_BYTES: usize = 64 << 10;
/// Interval at which a stream tells its position while it has nothing else to tell.
const POSITION_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum number of times that a stream begins anew before it is ready.
const MAX_RESTARTS: u32 = 3;

/// Stream of a bucket's changes. It gives back what it holds when it is dropped.
pub struct WatchStream {
    watched: Watched,
    /// Token of the request.
    since: Option<ResumeToken>,
    /// True if the stream begins with what there is.
    initial: bool,
    phase: Phase,
    /// Items to be told next.
    items: VecDeque<WatchItem>,
    /// Events to be told after them.
    pending: VecDeque<Arc<WatchEvent>>,
    /// Elapses when a position is due.
    position_due: Option<Pin<Box<Sleep>>>,
    /// Number of times that it began anew since it was ready.
    restarts: u32,
    _permit: WatchPermit,
}

/// Part of a stream.
#[derive(Debug)]
pub enum WatchItem {
    /// Changes, with their values if the watcher wants them: about 64 KiB.
    Events(Vec<Arc<WatchEvent>>),
    /// Keys that there are.
    Initial {
        /// The keys, with their values if the watcher wants them.
        keys: Vec<KeyInfo>,
        /// Token behind them.
        token: Arc<str>,
    },
    /// All was told that there was; what follows are changes.
    Ready {
        /// Token behind all that was told.
        token: Arc<str>,
    },
    /// Changes may have been missed.
    Reset {
        /// Token from which the client goes on.
        token: Arc<str>,
    },
    /// Nothing has happened for some time.
    Position {
        /// Token of the same position, as it is told now.
        token: Arc<str>,
    },
    /// The stream ends.
    End(WatchEnd),
}

/// Phase of a stream.
enum Phase {
    Start,
    Initial(Box<Initial>),
    Backlog(Box<Backlog>),
    Live(RingReader),
    Ended(WatchEnd),
}

impl WatchStream {
    pub(super) fn new(
        context: Arc<WatchContext>,
        permit: WatchPermit,
        mut request: WatchRequest,
        shards: Range<u16>,
    ) -> Self {
        Self {
            since: request.since.take(),
            initial: request.initial,
            watched: Watched::new(context, request, shards),
            phase: Phase::Start,
            items: VecDeque::new(),
            pending: VecDeque::new(),
            position_due: None,
            restarts: 0,
            _permit: permit,
        }
    }

    /// Waits for the next part. Not to be called after the end. Cancel safe.
    pub async fn next(&mut self) -> WatchItem {
        // A stream with much to tell gives way to others on its thread.
        consume_budget().await;
        let item = match self.next_item().await {
            Ok(item) => item,
            Err(end) => {
                let counters = &self.watched.context.counters;
                counters.record_end(Some(end));
                WatchItem::End(end)
            }
        };
        self.record(&item);
        item
    }

    fn record(&mut self, item: &WatchItem) {
        let counters = &self.watched.context.counters;
        match item {
            WatchItem::Events(events) => counters.record_events(events.len()),
            WatchItem::Initial { keys, .. } => counters.record_events(keys.len()),
            WatchItem::Reset { .. } => counters.record_reset(),
            WatchItem::Ready { .. } | WatchItem::Position { .. } => {}
            // What it holds in a ring goes at once.
            WatchItem::End(end) => self.phase = Phase::Ended(*end),
        }
    }

    async fn next_item(&mut self) -> Result<WatchItem, WatchEnd> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            if !self.pending.is_empty() {
                if let Some(item) = self.next_pending().await? {
                    return Ok(item);
                }
                continue;
            }
            match self.phase {
                Phase::Ended(end) => return Err(end),
                Phase::Live(_) => {
                    if let Some(item) = self.next_live().await? {
                        return Ok(item);
                    }
                }
                Phase::Start | Phase::Initial(_) | Phase::Backlog(_) => {
                    let stop = self.watched.context.stop.clone();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Err(WatchEnd::Draining),
                        prepared = self.prepare() => prepared?,
                    }
                }
            }
        }
    }

    /// Tells the first events that are pending; `None` if all of them are outdated.
    async fn next_pending(&mut self) -> Result<Option<WatchItem>, WatchEnd> {
        let with_values = self.watched.with_values;
        let (mut events, mut bytes) = (Vec::new(), 0_usize);
        for event in &self.pending {
            bytes = bytes.saturating_add(event.told_bytes(with_values));
            if !events.is_empty() && bytes > MAX_ITEM_BYTES {
                break;
            }
            events.push(event.clone());
        }
        let taken = events.len();
        if with_values {
            events = values::load(&self.watched, events).await?;
        }
        self.pending.drain(..taken);
        Ok((!events.is_empty()).then_some(WatchItem::Events(events)))
    }

    /// Takes a step towards the ring: has items or events to be told, or another phase afterwards.
    async fn prepare(&mut self) -> Result<(), WatchEnd> {
        match &mut self.phase {
            Phase::Start => self.begin().await,
            Phase::Initial(initial) => {
                let step = initial.step(&self.watched).await?;
                self.take_initial(step).await
            }
            Phase::Backlog(backlog) => {
                let step = backlog.step(&self.watched).await?;
                self.take_backlog(step).await
            }
            Phase::Live(_) | Phase::Ended(_) => Ok(()),
        }
    }

    async fn begin(&mut self) -> Result<(), WatchEnd> {
        let Some(since) = &self.since else {
            if self.initial {
                self.phase = Phase::Initial(Box::new(Initial::new(&self.watched)));
                return Ok(());
            }
            return self.begin_now().await;
        };
        let history = self.watched.context.history;
        let shards = self.watched.context.source.shards().len();
        let positions = since.positions_in(history, shards).map(<[u64]>::to_vec);
        if let Some(positions) = positions
            && self.watched.is_in_history(&positions).await?
        {
            self.phase = Phase::Backlog(Box::new(Backlog::new(positions, None)));
            return Ok(());
        }
        self.reset().await
    }

    /// Goes on from now on.
    async fn begin_now(&mut self) -> Result<(), WatchEnd> {
        let (reader, positions) = self.watched.join().await?;
        self.begin_live(reader, &positions);
        Ok(())
    }

    fn begin_live(&mut self, reader: RingReader, positions: &[u64]) {
        let token = self.watched.tokens.positions(positions);
        self.items.push_back(WatchItem::Ready { token });
        self.phase = Phase::Live(reader);
        self.restarts = 0;
    }

    /// Tells that changes may have been missed, and begins anew.
    async fn reset(&mut self) -> Result<(), WatchEnd> {
        if self.initial {
            let token = self.watched.tokens.incomplete();
            self.items.push_back(WatchItem::Reset { token });
            self.phase = Phase::Initial(Box::new(Initial::new(&self.watched)));
            return Ok(());
        }
        let (reader, positions) = self.watched.join().await?;
        let token = self.watched.tokens.positions(&positions);
        self.items.push_back(WatchItem::Reset { token });
        self.begin_live(reader, &positions);
        Ok(())
    }

    /// Begins anew since changes are missing, unless that has happened too often.
    async fn restart(&mut self) -> Result<(), WatchEnd> {
        if self.restarts >= MAX_RESTARTS {
            return Err(WatchEnd::NotServing);
        }
        self.restarts += 1;
        self.reset().await
    }

    async fn take_initial(&mut self, step: InitialStep) -> Result<(), WatchEnd> {
        match step {
            InitialStep::Events(events) => self.pending.extend(events),
            InitialStep::Keys(keys) => {
                let token = self.watched.tokens.incomplete();
                self.items.push_back(WatchItem::Initial { keys, token });
            }
            InitialStep::Complete(positions, pin) => {
                self.phase = Phase::Backlog(Box::new(Backlog::new(positions, pin)));
            }
            InitialStep::TooOld => self.restart().await?,
        }
        Ok(())
    }

    async fn take_backlog(&mut self, step: BacklogStep) -> Result<(), WatchEnd> {
        match step {
            BacklogStep::Events(events) => self.pending.extend(events),
            BacklogStep::Complete(reader, positions) => self.begin_live(reader, &positions),
            BacklogStep::TooOld => self.restart().await?,
        }
        Ok(())
    }

    /// Tells what is in the ring, or waits; `None` if there may be more to tell now.
    async fn next_live(&mut self) -> Result<Option<WatchItem>, WatchEnd> {
        let Phase::Live(reader) = &mut self.phase else {
            return Ok(None);
        };
        let mut events = Vec::new();
        match reader.take(MAX_ITEM_BYTES, self.watched.with_values, &mut events) {
            Taken::Events if self.watched.with_values => {
                self.pending.extend(events);
                Ok(None)
            }
            Taken::Events => Ok(Some(WatchItem::Events(events))),
            Taken::Nothing => Ok(self.wait().await),
            Taken::TooSlow => {
                self.phase = Phase::Ended(WatchEnd::TooSlow);
                let token = self.reset_token();
                Ok(Some(WatchItem::Reset { token }))
            }
            Taken::Gap => {
                self.reset().await?;
                Ok(None)
            }
            Taken::End(end) => Err(end),
        }
    }

    /// Waits for news of the ring. Tells the position when that is due.
    async fn wait(&mut self) -> Option<WatchItem> {
        let Phase::Live(reader) = &mut self.phase else {
            return None;
        };
        let due = self
            .position_due
            .get_or_insert_with(|| Box::pin(sleep(POSITION_INTERVAL)));
        tokio::select! {
            () = reader.wait() => return None,
            () = due.as_mut() => {}
        }
        // If there is more by now, its tokens tell the position.
        let positions = reader.positions()?;
        due.as_mut().reset(Instant::now() + POSITION_INTERVAL);
        let token = self.watched.tokens.positions(&positions);
        Some(WatchItem::Position { token })
    }

    /// Returns the token from which a client goes on that was too slow.
    fn reset_token(&self) -> Arc<str> {
        let tokens = &self.watched.tokens;
        let positions = self.watched.context.dispatcher.positions();
        match positions {
            Some(positions) if !self.initial => tokens.positions(&positions),
            _ => tokens.incomplete(),
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        // The end of one that has ended was counted.
        if !matches!(self.phase, Phase::Ended(_)) {
            self.watched.context.counters.record_end(None);
        }
    }
}
