//! Packs the fields of a write into one allocation of their size.
//!
//! They arrive as slices of the buffer that their request was read into. Kept as such, in the queue
//! and in the log's cache, each would keep all of that buffer.

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, touch, write::Op};

use crate::meta::Bucket;
use crate::types::{Expiry, KeyWrite, Precondition, Put, Touch, Version, to_nanos};

/// Maximum size of a value that is copied out of the buffer that it was read into, in bytes.
const MAX_COPIED_VALUE_BYTES: usize = 64 << 10;

/// Packs a write of a key.
pub(super) fn pack(bucket: &Bucket, key: &[u8], write: KeyWrite) -> pb::Write {
    match write {
        KeyWrite::Put(put) => pack_put(bucket, key, put),
        KeyWrite::Touch(touch) => pack_touch(bucket, key, touch),
        KeyWrite::Delete(precondition) => {
            let [bucket, key] = pack_fields([bucket.id.as_bytes(), key]);
            pb::Write {
                bucket,
                key,
                condition: condition_to_pb(&precondition),
                op: Some(Op::Delete(pb::Delete {})),
            }
        }
    }
}

fn pack_put(bucket: &Bucket, key: &[u8], put: Put) -> pb::Write {
    let copied = if put.value.len() <= MAX_COPIED_VALUE_BYTES {
        &put.value[..]
    } else {
        b""
    };
    let [bucket, key, content_type, metadata, copied] = pack_fields([
        bucket.id.as_bytes(),
        key,
        &put.content_type,
        &put.metadata,
        copied,
    ]);
    let value = if copied.len() == put.value.len() {
        copied
    } else {
        put.value
    };
    let (ttl, expires_at) = match put.expiry {
        Expiry::Never => (0, 0),
        Expiry::After(ttl) => (to_nanos(ttl), 0),
        Expiry::At(time) => (0, time),
    };
    pb::Write {
        bucket,
        key,
        condition: condition_to_pb(&put.precondition),
        op: Some(Op::Put(pb::Put {
            value,
            content_type,
            ttl,
            may_create: false,
            expires_at,
            metadata,
        })),
    }
}

fn pack_touch(bucket: &Bucket, key: &[u8], touch: Touch) -> pb::Write {
    let metadata = touch.metadata.as_deref().unwrap_or_default();
    let [bucket, key, metadata] = pack_fields([bucket.id.as_bytes(), key, metadata]);
    let expiry = touch.expiry.map(|expiry| match expiry {
        Expiry::Never => touch::Expiry::Persist(true),
        Expiry::After(ttl) => touch::Expiry::Ttl(to_nanos(ttl)),
        Expiry::At(time) => touch::Expiry::ExpiresAt(time),
    });
    pb::Write {
        bucket,
        key,
        condition: condition_to_pb(&touch.precondition),
        op: Some(Op::Touch(pb::Touch {
            expiry,
            metadata: touch.metadata.is_some().then_some(metadata),
        })),
    }
}

fn pack_fields<const N: usize>(fields: [&[u8]; N]) -> [Bytes; N] {
    let mut rest = Bytes::from(fields.concat());
    fields.map(|field| rest.split_to(field.len()))
}

fn condition_to_pb(precondition: &Precondition) -> Option<pb::Condition> {
    let versions = |versions: &[Version]| pb::Versions {
        any: versions.iter().map(|version| (*version).into()).collect(),
    };
    let kind = match precondition {
        Precondition::None => return None,
        Precondition::Exists => Condition::Exists(true),
        Precondition::Absent => Condition::Absent(true),
        Precondition::Versions(any) => Condition::Versions(versions(any)),
        Precondition::NotVersions(any) => Condition::NotVersions(versions(any)),
    };
    Some(pb::Condition { kind: Some(kind) })
}
