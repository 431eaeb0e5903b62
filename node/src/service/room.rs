//! A plan's number of keys: never refused below it, never exceeded.
//!
//! A write of a key that may be new needs room, which is handed out in blocks (see
//! `budget::KeyBudget`). When a block is used up, one writer counts the bucket's keys and hands out
//! the next. When nothing is left, a write of a key that is there goes ahead without room, and the
//! state itself refuses it if the key is gone by then.

use std::sync::Arc;
use std::time::Duration;

use super::errors::KeyError;
use super::keyspace::Keyspace;
use super::shards::Shards;
use crate::budget::{Refill, Reservation};
use crate::meta::Bucket;

/// Room for a write: reserved for a new key, or none, and only a key that is there may be written.
pub type Room = Option<Reservation>;

/// Finds room for `key` when the block at hand is used up.
pub async fn find(
    shards: &Shards,
    keyspace: &Keyspace,
    bucket: &Arc<Bucket>,
    key: &[u8],
    timeout: Duration,
) -> Result<Room, KeyError> {
    let find = async {
        loop {
            match refill(shards, bucket).await? {
                Refill::Room => {}
                Refill::Wait | Refill::Full if keyspace.get(bucket, key).await?.is_some() => {
                    return Ok(None);
                }
                Refill::Wait => wait_for_a_write(bucket).await,
                Refill::Full => {
                    return Err(KeyError::TooManyKeys {
                        limit: bucket.limits.keys,
                    });
                }
            }
            if let Some(reservation) = bucket.usage.budget.take() {
                return Ok(Some(reservation));
            }
        }
    };
    let overloaded = super::Unavailable::Overloaded {
        queue: "writes near the bucket's limit",
    };
    tokio::time::timeout(timeout, find)
        .await
        .unwrap_or(Err(overloaded.into()))
}

/// Waits until a write gives its room back. One may have ended just before: so not for long.
async fn wait_for_a_write(bucket: &Bucket) {
    let given_back = bucket.usage.budget.given_back();
    let _ = tokio::time::timeout(Duration::from_millis(5), given_back).await;
}

async fn refill(shards: &Shards, bucket: &Bucket) -> Result<Refill, KeyError> {
    let budget = &bucket.usage.budget;
    let parts = 8 * shards.len() as u64;
    let _counting = budget.counting.lock().await;
    let seen = budget.seen();
    let refill = budget.refill(seen, shards.count(&bucket.id).await?, parts);
    if refill != Refill::Full {
        return Ok(refill);
    }
    // What has expired since the last look is still counted.
    shards.expire().await?;
    let seen = budget.seen();
    Ok(budget.refill(seen, shards.count(&bucket.id).await?, parts))
}
