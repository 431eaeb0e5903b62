//! Applies puts and deletes (`WriteBatch`) to a shard.

use std::io;

use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, write::Op};

use super::record;
use super::record_change::{ChangeCause, RecordChange};
use super::response::{ShardResponse, WriteOutcome};
use super::rows::is_bucket_name;
use super::state::ShardState;
use crate::store::RowBatch;
use crate::types::{Nanos, Version, WriteReceipt};

impl ShardState {
    pub(super) fn apply_writes(
        &mut self,
        writes: &pb::WriteBatch,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let mut outcomes = Vec::with_capacity(writes.writes.len());
        for write in &writes.writes {
            outcomes.push(self.apply_write(writes.time, write, batch)?);
        }
        Ok(ShardResponse::Writes(outcomes))
    }

    fn apply_write(
        &mut self,
        time: Nanos,
        write: &pb::Write,
        batch: &mut RowBatch,
    ) -> io::Result<WriteOutcome> {
        if !is_bucket_name(&write.bucket) || self.bucket(&write.bucket)?.dropped {
            return Ok(WriteOutcome::BucketDropped);
        }
        let row = self.rows.record(&write.bucket, &write.key);
        let old = self.record(&row)?;
        let now = time.max(self.header.last_version + 1);
        let live = old.as_ref().filter(|record| record::is_live(record, now));
        if !condition_holds(write.condition.as_ref(), live)? {
            return Ok(WriteOutcome::ConditionFailed);
        }
        let existed = live.is_some();
        let needs_quota = old.as_ref().is_none_or(|record| record.tombstone);
        if needs_quota && matches!(&write.op, Some(Op::Put(put)) if !put.may_create) {
            return Ok(WriteOutcome::NoQuota);
        }
        let version = Version {
            time: self.next_version(time),
            region: self.header.region,
        };
        let new = match &write.op {
            Some(Op::Put(put)) => Some(pb::Record {
                version: Some(version.into()),
                expires_at: if put.ttl == 0 {
                    0
                } else {
                    version.time.saturating_add(put.ttl)
                },
                content_type: put.content_type.clone(),
                value: put.value.clone(),
                ..Default::default()
            }),
            Some(Op::Delete(_)) => self.new_tombstone(version),
            None => return Err(unknown_write_error()),
        };
        let expires_at = new.as_ref().and_then(record::expiry_of);
        self.apply_change(
            RecordChange {
                bucket: &write.bucket,
                key: &write.key,
                row,
                old,
                new,
                cause: ChangeCause::Written,
            },
            batch,
        )?;
        Ok(WriteOutcome::Written(WriteReceipt {
            version,
            existed,
            expires_at,
        }))
    }
}

fn condition_holds(
    condition: Option<&pb::Condition>,
    live: Option<&pb::Record>,
) -> io::Result<bool> {
    let is_one_of = |versions: &pb::Versions| {
        live.and_then(|record| record.version)
            .is_some_and(|version| versions.any.contains(&version))
    };
    let Some(condition) = condition else {
        return Ok(true);
    };
    match &condition.kind {
        Some(Condition::Exists(_)) => Ok(live.is_some()),
        Some(Condition::Absent(_)) => Ok(live.is_none()),
        Some(Condition::Versions(versions)) => Ok(is_one_of(versions)),
        Some(Condition::NotVersions(versions)) => Ok(!is_one_of(versions)),
        // A condition of a kind that a later version has added.
        None => Err(unknown_write_error()),
    }
}

fn unknown_write_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "the log holds a write of a kind that this version of cloudkv-node does not know: \
         upgrade it",
    )
}
