//! Lists keys over all shards: each shard is asked for a page, a share of the limit, and again when
//! its page is used up; the pages are merged.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::errors::KeyError;
use super::reads::ListKeys;
use super::shards::Shards;
use crate::meta::Bucket;
use crate::types::{KeyInfo, ListQuery};

/// Number of keys requested beyond an even share, since keys don't spread quite evenly.
const EXTRA_PAGE_KEYS: usize = 8;

/// Keys of one shard that are not merged yet.
struct ShardPage {
    shard: u16,
    keys: VecDeque<KeyInfo>,
    has_more: bool,
}

impl ShardPage {
    async fn fetch(
        shards: &Shards,
        shard: u16,
        bucket: &Bucket,
        query: &ListQuery,
    ) -> Result<Self, KeyError> {
        let bucket = bucket.id.as_bytes();
        let page = shards.run(shard, &ListKeys { bucket, query }).await?;
        Ok(Self {
            shard,
            keys: page.keys.into(),
            has_more: page.has_more,
        })
    }
}

/// Lists live keys in ascending order.
pub(super) async fn list(
    shards: &Shards,
    bucket: &Bucket,
    query: ListQuery,
) -> Result<Vec<KeyInfo>, KeyError> {
    let page_limit = query.limit.div_ceil(shards.len().max(1)) + EXTRA_PAGE_KEYS;
    let first_page = ListQuery {
        limit: page_limit.min(query.limit),
        ..query.clone()
    };
    let fetches = shards
        .numbers()
        .map(|shard| ShardPage::fetch(shards, shard, bucket, &first_page));
    let mut pages = try_join_all(fetches).await?;
    let mut keys = Vec::new();
    while keys.len() < query.limit {
        let smallest = pages
            .iter_mut()
            .filter(|page| !page.keys.is_empty())
            .min_by(|a, b| a.keys[0].key.cmp(&b.keys[0].key));
        let Some(page) = smallest else { break };
        let Some(info) = page.keys.pop_front() else {
            break;
        };
        let next_page = ListQuery {
            after: Some(info.key.clone()),
            ..first_page.clone()
        };
        keys.push(info);
        if page.keys.is_empty() && page.has_more {
            *page = ShardPage::fetch(shards, page.shard, bucket, &next_page).await?;
        }
    }
    Ok(keys)
}
