//! Listing over all shards: each is asked for a share of the limit, and again when its share is
//! used up; the shares are merged.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::errors::KeyError;
use super::reads::Keys;
use super::shards::Shards;
use crate::meta::Bucket;
use crate::types::{KeyInfo, ListQuery};

/// Asked for beyond an even share, since keys don't spread quite evenly.
const SLACK: usize = 8;

/// What a shard has given and was not taken yet.
struct Share {
    shard: u16,
    keys: VecDeque<KeyInfo>,
    more: bool,
}

impl Share {
    async fn fetch(
        shards: &Shards,
        shard: u16,
        bucket: &Bucket,
        query: &ListQuery,
    ) -> Result<Self, KeyError> {
        let bucket = bucket.id.as_bytes();
        let page = shards.run(shard, &Keys { bucket, query }).await?;
        Ok(Self {
            shard,
            keys: page.keys.into(),
            more: page.more,
        })
    }
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
    let first = shards
        .numbers()
        .map(|shard| Share::fetch(shards, shard, bucket, &part));
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
        if share.keys.is_empty() && share.more {
            *share = Share::fetch(shards, share.shard, bucket, &after).await?;
        }
    }
    Ok(keys)
}
