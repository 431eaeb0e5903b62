//! Listing over all shards: each is asked for a share of the limit, and again when its share is
//! used up; the shares are merged.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::errors::KeyError;
use super::shards::{Shards, read_error};
use crate::meta::Bucket;
use crate::shard::{Page, ShardHandle};
use crate::types::{KeyInfo, ListQuery};

/// Asked for beyond an even share, since keys don't spread quite evenly.
const SLACK: usize = 8;

/// What a shard has given and was not taken yet.
struct Share<'a> {
    shard: &'a ShardHandle,
    keys: VecDeque<KeyInfo>,
    more: bool,
}

impl Share<'_> {
    /// The next key, which is asked for if need be.
    async fn refill(&mut self, bucket: &Bucket, query: &ListQuery) -> Result<(), KeyError> {
        if self.keys.is_empty() && self.more {
            let page = fetch(self.shard, bucket, query.clone()).await?;
            self.more = page.more;
            self.keys = page.keys.into();
        }
        Ok(())
    }
}

async fn fetch(shard: &ShardHandle, bucket: &Bucket, query: ListQuery) -> Result<Page, KeyError> {
    let page = shard.page(bucket.id.as_bytes(), query).await;
    page.map_err(|error| read_error(shard, error))
}

/// Live keys in ascending order.
pub async fn list(
    shards: &Shards,
    bucket: &Bucket,
    query: ListQuery,
) -> Result<Vec<KeyInfo>, KeyError> {
    let share = query.limit.div_ceil(shards.len().max(1)) + SLACK;
    let part = ListQuery {
        limit: share.min(query.limit),
        ..query.clone()
    };
    let first = shards.iter().map(|shard| async {
        let page = fetch(shard, bucket, part.clone()).await?;
        Ok::<_, KeyError>(Share {
            shard,
            keys: page.keys.into(),
            more: page.more,
        })
    });
    let mut shares = try_join_all(first).await?;
    let mut keys = Vec::new();
    while keys.len() < query.limit {
        let next = shares
            .iter_mut()
            .filter(|share| !share.keys.is_empty())
            .min_by(|a, b| a.keys[0].key.cmp(&b.keys[0].key));
        let Some(share) = next else { break };
        let Some(info) = share.keys.pop_front() else {
            break;
        };
        let after = ListQuery {
            after: Some(info.key.clone()),
            ..part.clone()
        };
        keys.push(info);
        share.refill(bucket, &after).await?;
    }
    Ok(keys)
}
