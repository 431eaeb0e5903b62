//! Names and JSON files of a backup.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::BackupError;

/// Format of the backups that this version makes, and the only one that it reads.
pub(crate) const FORMAT: u32 = 1;

/// File with which a backup begins: [`BackupStart`].
pub(crate) const START_FILE: &str = "backup.json";
/// File with which a backup is complete: [`Manifest`].
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// Folder of the metadata's parts, within a backup.
pub(crate) const METADATA_DIR: &str = "metadata";

/// Maximum size of a file: that of the manifest grows with the number of parts.
pub(super) const MAX_FILE_BYTES: usize = 256 << 20;

/// Last second whose ID has four digits for the year.
const MAX_ID_SECONDS: u64 = 253_402_300_799;

/// What is known of a backup when it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupStart {
    /// Format of the backup, see [`FORMAT`].
    pub format: u32,
    /// ID of the backup, the name of its folder.
    pub id: String,
    /// ID of the cluster.
    pub cluster_id: String,
    /// Region whose shards are read.
    pub region: String,
    /// Number of shards.
    pub shards: u16,
    /// Version of the software.
    pub version: String,
    /// Time at which it began, RFC 3339.
    pub started_at: String,
}

/// A part: a compressed message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartEntry {
    /// Path within the backup.
    pub name: String,
    /// Compressed size.
    pub bytes: u64,
    /// SHA-256 of the compressed bytes, in hexadecimal digits.
    pub sha256: String,
    /// Number of records; of metadata, of accounts, buckets and plans together.
    pub records: u64,
}

/// A shard of which all parts are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardEntry {
    /// Number of the shard.
    pub shard: u16,
    /// Index of the last log entry whose effects its view has.
    pub applied_index: u64,
    /// Time of the newest version in the shard, nanoseconds since 1970.
    pub last_version: u64,
    /// Number of records in its parts.
    pub records: u64,
    /// Its parts, in their order.
    pub parts: Vec<PartEntry>,
}

/// Contents of a complete backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// What was known when it began.
    #[serde(flatten)]
    pub start: BackupStart,
    /// Time at which it was complete, RFC 3339.
    pub finished_at: String,
    /// Feature level of the metadata.
    pub level: u32,
    /// Parts of the metadata.
    pub metadata: Vec<PartEntry>,
    /// All shards, in the order of their numbers.
    pub shard_files: Vec<ShardEntry>,
    /// Number of records of all shards.
    pub records: u64,
    /// Compressed size of all parts, those of the metadata included.
    pub bytes: u64,
    /// SHA-256 of the manifest with an empty checksum, as compact JSON, in hexadecimal digits.
    pub checksum: String,
}

/// The part of a manifest that all versions can read.
#[derive(Deserialize)]
struct StoredFormat {
    format: u32,
}

impl Manifest {
    /// Sets the checksum.
    pub(crate) fn seal(self) -> Result<Self, BackupError> {
        let checksum = self.compute_checksum()?;
        Ok(Self { checksum, ..self })
    }

    /// Checks that the manifest is as it was sealed.
    pub(crate) fn verify_checksum(&self) -> Result<(), BackupError> {
        if self.checksum == self.compute_checksum()? {
            Ok(())
        } else {
            Err(damaged_manifest("its checksum doesn't match its content"))
        }
    }

    fn compute_checksum(&self) -> Result<String, BackupError> {
        let unsealed = Self {
            checksum: String::new(),
            ..self.clone()
        };
        Ok(sha256_hex(&to_json(MANIFEST_FILE, &unsealed)?))
    }

    /// Parses a manifest of this version's format, whose content isn't checked.
    pub(super) fn parse(id: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let stored: StoredFormat = from_json(MANIFEST_FILE, bytes)?;
        if stored.format != FORMAT {
            return Err(BackupError::OtherFormat {
                id: id.to_owned(),
                format: stored.format,
                supported: FORMAT,
            });
        }
        from_json(MANIFEST_FILE, bytes)
    }

    /// Checks that the manifest is that of backup `id`, and that what it names adds up.
    pub(super) fn check_content(&self, id: &str) -> Result<(), BackupError> {
        if self.start.id != id {
            let why = format!("it is that of backup {}", self.start.id);
            return Err(damaged_manifest(&why));
        }
        let numbers = self.shard_files.iter().map(|entry| entry.shard);
        if !numbers.eq(0..self.start.shards) {
            return Err(damaged_manifest("it doesn't name each shard once"));
        }
        let is_whole = |entry: &ShardEntry| records_of(&entry.parts) == Some(entry.records);
        let mut of_shards = self.shard_files.iter().map(|entry| entry.records);
        let total = of_shards.try_fold(0, u64::checked_add);
        if !self.shard_files.iter().all(is_whole) || total != Some(self.records) {
            return Err(damaged_manifest("its numbers of records don't add up"));
        }
        Ok(())
    }
}

/// Number of records of parts; `None` if no number can be that large.
fn records_of(parts: &[PartEntry]) -> Option<u64> {
    let mut records = parts.iter().map(|part| part.records);
    records.try_fold(0, u64::checked_add)
}

fn damaged_manifest(why: &str) -> BackupError {
    BackupError::Damaged {
        name: MANIFEST_FILE.to_owned(),
        why: why.to_owned(),
    }
}

/// Encodes a file of a backup as compact JSON. `name` is its path within the backup.
pub(crate) fn to_json(name: &str, content: &impl Serialize) -> Result<Bytes, BackupError> {
    let json = serde_json::to_vec(content).map_err(|error| BackupError::Encode {
        name: name.to_owned(),
        source: error.into(),
    })?;
    Ok(json.into())
}

/// Decodes a JSON file of a backup. `name` is its path within the backup.
pub(crate) fn from_json<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|error| BackupError::Damaged {
        name: name.to_owned(),
        why: error.to_string(),
    })
}

/// SHA-256, in hexadecimal digits.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Folder of a shard's files, within a backup.
pub(crate) fn shard_dir(shard: u16) -> String {
    format!("shard-{shard:03}")
}

/// Path of the file with which a shard is complete, within a backup: a [`ShardEntry`].
pub(crate) fn shard_file(shard: u16) -> String {
    format!("{}/shard.json", shard_dir(shard))
}

/// Path of a part, within a backup.
pub(crate) fn part_name(dir: &str, number: usize) -> String {
    format!("{dir}/part-{number:05}.zst")
}

/// ID of a backup that begins at a time, in seconds since 1970.
pub(crate) fn id_at(unix_seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(MAX_ID_SECONDS));
    let mut id = humantime::format_rfc3339_seconds(time).to_string();
    id.retain(|char| char != '-' && char != ':');
    id
}

/// Parses the ID of a backup; returns the time at which it began, in seconds since 1970. `None` if
/// it is no ID.
pub(crate) fn parse_id(id: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| id.get(range);
    let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    let time = humantime::parse_rfc3339(&text).ok()?;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (id_at(seconds) == id).then_some(seconds)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
