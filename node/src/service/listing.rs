//! Lists keys over all shards: each shard is asked for a page, a share of the limits, and again
//! when its page is used up; the pages are merged in the order of the list.
//!
//! Invariant: a list has all entries of its query from the first one up to the position behind
//! which it goes on, each once. So an entry is listed only if no shard can have one before it; and
//! a common prefix that several shards have is listed once, and skipped by all of them.
//!
//! A list ends early if the shards have read many rows and found few that are live, as among
//! tombstones. It may be empty then, and go on all the same.

use std::collections::VecDeque;
use std::ops::Range;

use futures_util::future::try_join_all;

use super::errors::KeyError;
use crate::shard::{ListPosition, Page};
use crate::types::{ListEntry, ListQuery};

/// Number of entries requested beyond an even share, since keys don't spread quite evenly.
const EXTRA_PAGE_ENTRIES: usize = 8;
/// Factor by which a share is larger with a delimiter: each shard may have all common prefixes.
const PREFIX_SHARE_FACTOR: usize = 8;
/// Maximum number of rows that a page reads where few of them are live: a fraction of a second.
const MAX_PAGE_ROWS: usize = 20_000;
/// Maximum number of pages of one list that end early because of that.
const MAX_EARLY_ENDS: usize = 32;

/// Part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Keys and common prefixes, in the query's order.
    pub entries: Vec<ListEntry>,
    /// Position behind which the list goes on; `None` at its end. What follows may be empty.
    pub next: Option<ListPosition>,
}

/// Lists what matches a query, over these shards; `fetch` asks one of them for a page.
pub(super) async fn list<F, P>(
    shards: Range<u16>,
    query: ListQuery,
    fetch: F,
) -> Result<Listing, KeyError>
where
    F: Fn(u16, ListQuery) -> P,
    P: Future<Output = Result<Page, KeyError>>,
{
    let page_query = page_query(&query, shards.len());
    let first_pages = shards.clone().map(|shard| fetch(shard, page_query.clone()));
    let first_pages = try_join_all(first_pages).await?;
    let mut merge = Merge::new(query, shards.zip(first_pages));
    loop {
        merge.take_known();
        let wanted = merge.wanted_pages();
        if wanted.is_empty() || merge.is_full() || merge.early_ends >= MAX_EARLY_ENDS {
            return Ok(merge.into_listing());
        }
        let next_pages = wanted.iter().map(|(shard, position)| {
            let mut query = page_query.clone();
            position.narrow(&mut query);
            fetch(*shard, query)
        });
        let next_pages = try_join_all(next_pages).await?;
        for ((shard, _), page) in wanted.into_iter().zip(next_pages) {
            merge.add_page(shard, page);
        }
    }
}

/// Returns the query for one page of one of so many shards.
fn page_query(query: &ListQuery, shards: usize) -> ListQuery {
    let shards = shards.max(1);
    let share = query.limit.div_ceil(shards) + EXTRA_PAGE_ENTRIES;
    let share = if query.delimiter.is_empty() {
        share
    } else {
        share * PREFIX_SHARE_FACTOR
    };
    ListQuery {
        limit: share.min(query.limit),
        // So the values of all pages together are as many as the list may have, or one a shard.
        max_value_bytes: query.max_value_bytes / shards,
        max_rows: Some(MAX_PAGE_ROWS),
        ..query.clone()
    }
}

/// Entries of one shard that are not listed yet.
struct ShardPage {
    shard: u16,
    entries: VecDeque<ListEntry>,
    /// Position behind which the shard's entries go on; `None` at their end.
    next: Option<ListPosition>,
}

impl ShardPage {
    /// Returns the position behind which the shard has to be asked for its next entry.
    fn wanted(&self) -> Option<&ListPosition> {
        self.next.as_ref().filter(|_| self.entries.is_empty())
    }

    /// Skips what is listed with an entry of another shard: the same common prefix, or keys below
    /// it that aren't known yet.
    fn skip_to(&mut self, entry: &ListEntry, position: &ListPosition, is_reverse: bool) {
        let first = self.entries.front();
        if first.is_some_and(|first| first.name() == entry.name()) {
            self.entries.pop_front();
        }
        let wanted = self.wanted();
        if wanted.is_some_and(|wanted| wanted.compare(position, is_reverse).is_lt()) {
            self.next = Some(position.clone());
        }
    }
}

/// Merge of the shards' pages.
struct Merge {
    query: ListQuery,
    pages: Vec<ShardPage>,
    entries: Vec<ListEntry>,
    value_bytes: usize,
    /// True if the next value would exceed the query's bytes.
    has_all_bytes: bool,
    /// Number of pages that ended early.
    early_ends: usize,
}

impl Merge {
    fn new(query: ListQuery, pages: impl Iterator<Item = (u16, Page)>) -> Self {
        let mut merge = Self {
            query,
            pages: Vec::new(),
            entries: Vec::new(),
            value_bytes: 0,
            has_all_bytes: false,
            early_ends: 0,
        };
        for (shard, page) in pages {
            merge.pages.push(ShardPage {
                shard,
                entries: VecDeque::new(),
                next: None,
            });
            merge.add_page(shard, page);
        }
        merge
    }

    /// Adds the next page of a shard, whose last one is used up.
    fn add_page(&mut self, shard: u16, page: Page) {
        self.early_ends += usize::from(page.resume.is_some());
        if let Some(slot) = self.pages.iter_mut().find(|slot| slot.shard == shard) {
            slot.next = page.next_position();
            slot.entries = page.entries.into();
        }
    }

    fn is_full(&self) -> bool {
        self.has_all_bytes || self.entries.len() >= self.query.limit
    }

    /// Returns the shards that have to be asked for their next page, and behind which position.
    fn wanted_pages(&self) -> Vec<(u16, ListPosition)> {
        let pages = self.pages.iter();
        pages
            .filter_map(|page| Some((page.shard, page.wanted()?.clone())))
            .collect()
    }

    /// Lists the entries before which no other one can come.
    fn take_known(&mut self) {
        while !self.is_full()
            && let Some(index) = self.first_page()
            && self.is_next(index)
        {
            self.take_from(index);
        }
    }

    /// Returns whether a page's first entry comes before all entries that aren't known.
    fn is_next(&self, index: usize) -> bool {
        let entry = self.pages[index].entries.front();
        entry
            .zip(self.first_unknown())
            .is_none_or(|(entry, unknown)| unknown.reaches(entry, self.query.is_reverse))
    }

    /// Returns the first position behind which a shard's entries aren't known.
    fn first_unknown(&self) -> Option<&ListPosition> {
        let wanted = self.pages.iter().filter_map(ShardPage::wanted);
        wanted.min_by(|one, other| one.compare(other, self.query.is_reverse))
    }

    /// Returns the index of the page that has the next entry of the list.
    fn first_page(&self) -> Option<usize> {
        let name = |index: &usize| self.pages[*index].entries.front().map(ListEntry::name);
        let indexes = (0..self.pages.len()).filter(|index| name(index).is_some());
        if self.query.is_reverse {
            indexes.max_by(|one, other| name(one).cmp(&name(other)))
        } else {
            indexes.min_by(|one, other| name(one).cmp(&name(other)))
        }
    }

    /// Lists the first entry of a page, if its value fits.
    fn take_from(&mut self, index: usize) {
        let Some(entry) = self.pages[index].entries.pop_front() else {
            return;
        };
        let bytes = value_bytes(&entry);
        if !self.entries.is_empty() && self.value_bytes + bytes > self.query.max_value_bytes {
            self.pages[index].entries.push_front(entry);
            self.has_all_bytes = true;
            return;
        }
        let position = ListPosition::behind(&entry);
        for page in &mut self.pages {
            page.skip_to(&entry, &position, self.query.is_reverse);
        }
        self.value_bytes += bytes;
        self.entries.push(entry);
    }

    fn into_listing(self) -> Listing {
        let is_used_up = |page: &ShardPage| page.entries.is_empty() && page.next.is_none();
        let next = if self.pages.iter().all(is_used_up) {
            None
        } else if self.is_full() {
            self.entries.last().map(ListPosition::behind)
        } else {
            self.first_unknown().cloned()
        };
        Listing {
            entries: self.entries,
            next,
        }
    }
}

fn value_bytes(entry: &ListEntry) -> usize {
    match entry {
        ListEntry::Key(info) => info.value.as_ref().map_or(0, |value| value.len()),
        ListEntry::Prefix(_) => 0,
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
