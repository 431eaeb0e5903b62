//! Parts of a backup: messages, compressed with zstd, whose SHA-256 is known.

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::error::BackupError;
use super::format::{PartEntry, sha256_hex};

/// Size at which a part is written, uncompressed.
pub(crate) const PART_BYTES: usize = 4 << 20;

/// Maximum size of a part that is read, uncompressed.
const MAX_PLAIN_BYTES: usize = 64 << 20;
/// Level of compression.
const ZSTD_LEVEL: i32 = 3;

/// Message of a part.
pub(crate) trait PartContent: Message + Default + 'static {
    /// Number of its records, as [`PartEntry::records`] counts them.
    fn record_count(&self) -> u64;
}

impl PartContent for pb::BackupRecords {
    fn record_count(&self) -> u64 {
        self.records.len() as u64
    }
}

impl PartContent for pb::BackupMetadata {
    fn record_count(&self) -> u64 {
        (self.accounts.len() + self.buckets.len() + self.plans.len()) as u64
    }
}

/// Encodes the part with this path within the backup. Takes as long as the compression: call it
/// where a thread may block.
pub(crate) fn encode_part(
    message: &impl Message,
    name: String,
    records: u64,
) -> Result<(Bytes, PartEntry), BackupError> {
    let plain = message.encode_to_vec();
    let compressed = match zstd::bulk::compress(&plain, ZSTD_LEVEL) {
        Ok(compressed) => Bytes::from(compressed),
        Err(source) => return Err(BackupError::Encode { name, source }),
    };
    let entry = PartEntry {
        name,
        bytes: compressed.len() as u64,
        sha256: sha256_hex(&compressed),
        records,
    };
    Ok((compressed, entry))
}

/// Decodes a part, after its size and its checksum were compared with those of its entry. The
/// message shares one buffer of at most 64 MiB. Call it where a thread may block.
pub(crate) fn decode_part<T: Message + Default>(
    bytes: &Bytes,
    entry: &PartEntry,
) -> Result<T, BackupError> {
    if bytes.len() as u64 != entry.bytes {
        let why = format!("it has {} bytes instead of {}", bytes.len(), entry.bytes);
        return Err(damaged(entry, why));
    }
    if sha256_hex(bytes) != entry.sha256 {
        let why = "its SHA-256 isn't the recorded one".to_owned();
        return Err(damaged(entry, why));
    }
    let plain = zstd::bulk::decompress(bytes, MAX_PLAIN_BYTES);
    let plain = plain.map_err(|error| damaged(entry, format!("decompress it: {error}")))?;
    T::decode(Bytes::from(plain)).map_err(|error| damaged(entry, error.to_string()))
}

/// Decodes a part, whose number of records is compared as well.
pub(super) fn decode_content<T: PartContent>(
    bytes: &Bytes,
    entry: &PartEntry,
) -> Result<T, BackupError> {
    let content: T = decode_part(bytes, entry)?;
    let records = content.record_count();
    if records != entry.records {
        let why = format!("it has {records} records instead of {}", entry.records);
        return Err(damaged(entry, why));
    }
    Ok(content)
}

fn damaged(entry: &PartEntry, why: String) -> BackupError {
    let name = entry.name.clone();
    BackupError::Damaged { name, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: usize) -> pb::BackupRecords {
        let record = |number: usize| pb::KeyRecord {
            bucket: Bytes::from_static(b"aABCDEFGHIJKLM"),
            key: Bytes::from(format!("key {number}")),
            record: Some(pb::Record {
                value: Bytes::from(vec![7; 100]),
                ..Default::default()
            }),
        };
        let records = (0..count).map(record).collect();
        pb::BackupRecords { records }
    }

    fn encoded(count: usize) -> (Bytes, PartEntry) {
        encode_part(
            &records(count),
            "shard-000/part-00000.zst".into(),
            count as u64,
        )
        .unwrap()
    }

    fn why(bytes: &Bytes, entry: &PartEntry) -> String {
        let error = decode_content::<pb::BackupRecords>(bytes, entry).unwrap_err();
        assert!(error.is_damage());
        let text = error.to_string();
        assert!(text.contains("shard-000/part-00000.zst"), "{text}");
        text
    }

    #[test]
    fn parts_come_back_as_they_were_written() {
        for count in [0, 1, 1000] {
            let (bytes, entry) = encoded(count);
            assert_eq!(entry.bytes, bytes.len() as u64);
            let read: pb::BackupRecords = decode_content(&bytes, &entry).unwrap();
            assert_eq!(read, records(count));
        }
        let (bytes, _) = encoded(1000);
        assert!(bytes.len() < 100_000, "it isn't compressed");
    }

    #[test]
    fn all_damage_is_noticed() {
        let (bytes, entry) = encoded(10);
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(why(&flipped.into(), &entry).contains("SHA-256"));
        }
        let truncated = bytes.slice(..bytes.len() - 1);
        assert!(why(&truncated, &entry).contains("bytes instead of"));
        assert!(why(&Bytes::new(), &entry).contains("0 bytes instead of"));
        let miscounted = PartEntry {
            records: 11,
            ..entry
        };
        assert!(why(&bytes, &miscounted).contains("10 records instead of 11"));
    }

    #[test]
    fn what_would_become_too_large_is_not_decompressed() {
        let plain = vec![0; MAX_PLAIN_BYTES + 1];
        let bytes = Bytes::from(zstd::bulk::compress(&plain, ZSTD_LEVEL).unwrap());
        let (_, entry) = encoded(1);
        let entry = PartEntry {
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            ..entry
        };
        assert!(why(&bytes, &entry).contains("decompress it"));
    }
}
