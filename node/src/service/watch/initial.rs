//! Tells what there is: all keys that a stream watches, shard by shard, page by page.
//!
//! A page is read in one view, that after an entry of the shard's log. Before its keys are told,
//! the keys of the pages before it are brought to the same entry: their changes since the last page
//! are told. So at each moment all keys that were told are those after one entry of their shard. In
//! the end there is one position for each shard, and the stream goes on behind them like one with a
//! token.
//!
//! Until then all tokens say that the client goes on from nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::end::WatchEnd;
use super::event::WatchEvent;
use super::pin::StreamPin;
use super::source::retry;
use super::watched::{Watched, event};
use crate::service::shards::no_leader;
use crate::shard::{ListPosition, Page};
use crate::types::{KeyChange, KeyChangeKind, KeyFilter, KeyInfo, ListEntry, ListQuery};

/// Maximum number of keys of a page.
const PAGE_KEYS: usize = 500;
/// Maximum size of the values of a page, in bytes; it has one in any case.
const PAGE_VALUE_BYTES: usize = 256 << 10;
/// Maximum number of rows that are read for a page where few of them are live.
const PAGE_ROWS: usize = 20_000;

/// Telling of what there is, of one stream.
pub(super) struct Initial {
    /// Shard whose keys are told now.
    shard: u16,
    /// Entry of each shard after which the keys are that were told.
    positions: Vec<u64>,
    /// Position in the shard's list up to which its keys were told; `None` if none were.
    told_to: Option<ListPosition>,
    /// Page that is told next.
    page: Option<Page>,
    pin: Option<StreamPin>,
}

/// Next part of what there is.
pub(super) enum InitialStep {
    /// Changes of keys that were told.
    Events(Vec<Arc<WatchEvent>>),
    /// Keys.
    Keys(Vec<KeyInfo>),
    /// All was told as it is at these positions; the pin keeps the changes since.
    Complete(Vec<u64>, Option<StreamPin>),
    /// Changes are missing.
    TooOld,
}

impl Initial {
    pub(super) fn new(watched: &Watched) -> Self {
        Self {
            shard: watched.shards.start,
            positions: vec![0; watched.context.source.shards().len()],
            told_to: None,
            page: None,
            pin: Some(StreamPin::new(&watched.context)),
        }
    }

    /// Reads what is told next. Cancel safe.
    pub(super) async fn step(&mut self, watched: &Watched) -> Result<InitialStep, WatchEnd> {
        while self.shard < watched.shards.end {
            watched.check()?;
            let Some(applied) = self.page.as_ref().map(|page| page.applied_index) else {
                self.renew_pin(watched).await;
                self.page = Some(self.read_page(watched).await?);
                continue;
            };
            let position = self.positions[usize::from(self.shard)];
            if self.told_to.is_some() && position < applied {
                let changes = watched.changes(self.shard, position, applied).await?;
                let Some(page) = changes else {
                    return Ok(InitialStep::TooOld);
                };
                let events = self.events(watched, page.changes)?;
                self.positions[usize::from(self.shard)] = page.up_to;
                if !events.is_empty() {
                    return Ok(InitialStep::Events(events));
                }
                continue;
            }
            let keys = self.take_page(watched);
            if !keys.is_empty() {
                return Ok(InitialStep::Keys(keys));
            }
        }
        let positions = std::mem::take(&mut self.positions);
        Ok(InitialStep::Complete(positions, self.pin.take()))
    }

    /// Reads the next page of the shard: in a view that is not before that of the page before it.
    async fn read_page(&self, watched: &Watched) -> Result<Page, WatchEnd> {
        let shard = self.shard;
        let min_index = self.positions[usize::from(shard)].max(1);
        let query = self.query(watched);
        let source = &watched.context.source;
        let dispatcher = &watched.context.dispatcher;
        let read = || async {
            // Others need the permit meanwhile.
            if !dispatcher.is_serving(&(shard..shard + 1)) {
                return Err(no_leader(shard));
            }
            let page = source.page(shard, &watched.bucket.id, &query).await;
            // Else the replica lags, or its version doesn't tell the index.
            let is_recent = |page: &Page| page.applied_index >= min_index;
            match page {
                Ok(page) if !is_recent(&page) => Err(no_leader(shard)),
                page => page,
            }
        };
        retry(&source.page_reads, read).await
    }

    fn query(&self, watched: &Watched) -> ListQuery {
        let (prefix, limit, max_rows) = match &watched.filter {
            KeyFilter::Prefix(prefix) => (prefix, PAGE_KEYS, PAGE_ROWS),
            // A key is the first one that begins with it.
            KeyFilter::Key(key) => (key, 1, 1),
        };
        let mut query = ListQuery {
            prefix: prefix.clone(),
            with_values: watched.with_values,
            limit,
            max_value_bytes: PAGE_VALUE_BYTES,
            max_rows: Some(max_rows),
            with_index: true,
            ..ListQuery::default()
        };
        if let Some(position) = &self.told_to {
            position.narrow(&mut query);
        }
        query
    }

    /// Makes the events of changes of keys that were told; the others are told with their pages.
    fn events(
        &self,
        watched: &Watched,
        changes: Vec<KeyChange>,
    ) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
        let changes = changes.into_iter();
        let told = changes.filter(|change| {
            change.kind == KeyChangeKind::BucketDropped || self.was_told(&change.key)
        });
        told.map(|change| event(change, watched.tokens.incomplete()))
            .collect()
    }

    fn was_told(&self, key: &Bytes) -> bool {
        match &self.told_to {
            Some(ListPosition::Key(last) | ListPosition::Prefix(last)) => key <= last,
            None => false,
        }
    }

    /// Takes the keys of the page, after which those of its shard are as in the page's view.
    fn take_page(&mut self, watched: &Watched) -> Vec<KeyInfo> {
        let page = self.page.take().unwrap_or_default();
        self.positions[usize::from(self.shard)] = page.applied_index;
        self.told_to = page.next_position();
        let is_single = matches!(watched.filter, KeyFilter::Key(_));
        if is_single || self.told_to.is_none() {
            self.told_to = None;
            self.shard += 1;
        }
        let keys = page.entries.into_iter().filter_map(|entry| match entry {
            ListEntry::Key(info) => Some(info),
            ListEntry::Prefix(_) => None,
        });
        keys.filter(|info| watched.filter.matches(&info.key))
            .collect()
    }

    /// Renews the pin of the shards of which keys were told.
    async fn renew_pin(&mut self, watched: &Watched) {
        let end = self.shard + u16::from(self.told_to.is_some());
        let positions = &self.positions;
        let told = watched.shards.start..end;
        let pinned = || {
            let positions = told.map(|shard| (shard, positions[usize::from(shard)]));
            positions.collect()
        };
        if let Some(pin) = &mut self.pin {
            pin.renew(pinned).await;
        }
    }
}
