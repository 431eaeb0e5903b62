//! Removes expired keys, so that counts are exact and their space is released.
//!
//! Readers don't depend on it: they check each record's own expiry.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::record;
use super::record_change::{ChangeCause, RecordChange};
use super::response::ShardResponse;
use super::state::ShardState;
use crate::store::keys;
use crate::store::{RowBatch, Scan, blocking};
use crate::types::Nanos;

/// Result of a scan of the expiry index.
#[derive(Default)]
struct ExpiredKeys {
    keys: Vec<(Nanos, Bytes, Bytes)>,
    /// Expiry of the first row that was left: a later one, or one beyond the limit.
    next: Option<Nanos>,
    /// That row.
    next_row: Option<Vec<u8>>,
}

impl ShardState {
    pub(super) fn apply_expire(
        &mut self,
        expire: pb::ExpireUpTo,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let due = self.find_expired(expire)?;
        for (at, bucket, key) in due.keys {
            let row = self.rows.record(&bucket, &key);
            let old = self.record(&row)?;
            match old {
                Some(old) if record::expiry_of(&old) == Some(at) => {
                    // The tombstone keeps the version: the key expired, nobody wrote it.
                    let new = self.expired_tombstone(&old);
                    let change = RecordChange {
                        bucket: &bucket,
                        key: &key,
                        row,
                        old: Some(old),
                        new,
                        cause: ChangeCause::Expired,
                    };
                    self.apply_change(change, batch)?;
                }
                // The bucket was dropped: only the index still has the key.
                Some(_) | None => batch.delete(self.rows.expiry(at, &bucket, &key)),
            }
        }
        // A reader with a slower clock must not see what was removed here.
        self.header.last_version = self.header.last_version.max(expire.time);
        self.header.expiry_low = due.next.unwrap_or(expire.time).min(expire.time);
        self.view.set_next_expiry(due.next);
        self.expiry_from = due.next_row;
        Ok(ShardResponse::Expired {
            has_more: due.next.is_some_and(|next| next <= expire.time),
        })
    }

    /// Finds expired keys from the lowest index position that may hold a row: the deleted rows
    /// before it aren't scanned again.
    fn find_expired(&self, expire: pb::ExpireUpTo) -> io::Result<ExpiredKeys> {
        let lowest = self.rows.expiry(self.header.expiry_low, b"", b"");
        let from = self
            .expiry_from
            .clone()
            .map_or(lowest.clone(), |from| from.max(lowest));
        let to = self.rows.expiry(Nanos::MAX, &[u8::MAX; 14], b"");
        let mut due = ExpiredKeys::default();
        blocking(|| {
            self.db.scan(
                Scan {
                    from,
                    to,
                    fill_cache: true,
                },
                |row, _| {
                    let Some((at, bucket, key)) = keys::split_time_indexed(row) else {
                        return ControlFlow::Continue(());
                    };
                    if at > expire.time || due.keys.len() >= expire.limit as usize {
                        due.next = Some(at);
                        due.next_row = Some(row.to_vec());
                        return ControlFlow::Break(());
                    }
                    let (bucket, key) =
                        (Bytes::copy_from_slice(bucket), Bytes::copy_from_slice(key));
                    due.keys.push((at, bucket, key));
                    ControlFlow::Continue(())
                },
            )
        })?;
        Ok(due)
    }
}
