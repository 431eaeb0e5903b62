//! Applies puts, touches and deletes (`WriteBatch`) to a shard.

use std::io;

use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, touch::Expiry, write::Op};

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
        // First, since without its condition the touch would fail, too (RFC 9110, 13.2.1).
        if live.is_none() && matches!(write.op, Some(Op::Touch(_))) {
            return Ok(WriteOutcome::KeyMissing);
        }
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
            Some(Op::Put(put)) => Some(new_record(put, version)),
            Some(Op::Touch(touch)) => live.map(|live| touched_record(live, touch, version)),
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

/// Builds the record of a put.
fn new_record(put: &pb::Put, version: Version) -> pb::Record {
    let expires_at = match (put.expires_at, put.ttl) {
        (0, 0) => 0,
        (0, ttl) => version.time.saturating_add(ttl),
        (expires_at, _) => expires_at,
    };
    pb::Record {
        version: Some(version.into()),
        expires_at,
        content_type: put.content_type.clone(),
        metadata: put.metadata.clone(),
        value: put.value.clone(),
        ..Default::default()
    }
}

/// Builds the record that a touch makes of a live one.
fn touched_record(live: &pb::Record, touch: &pb::Touch, version: Version) -> pb::Record {
    let expires_at = match touch.expiry {
        None => live.expires_at,
        Some(Expiry::Ttl(ttl)) => version.time.saturating_add(ttl),
        Some(Expiry::ExpiresAt(expires_at)) => expires_at,
        Some(Expiry::Persist(_)) => 0,
    };
    let metadata = touch.metadata.as_ref().unwrap_or(&live.metadata);
    pb::Record {
        version: Some(version.into()),
        expires_at,
        content_type: live.content_type.clone(),
        metadata: metadata.clone(),
        value: live.value.clone(),
        ..Default::default()
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
