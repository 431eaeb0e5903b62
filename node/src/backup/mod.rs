//! Backups: how they are stored, and where.
//!
//! A backup is a folder at a URL, whose name is its ID:
//!
//! ```text
//! 20261201T034500Z/backup.json                begin, written first
//! 20261201T034500Z/shard-003/part-00000.zst   records of a shard: pb::BackupRecords, with zstd
//! 20261201T034500Z/shard-003/shard.json       end of a shard, after its last part
//! 20261201T034500Z/metadata/part-00000.zst    pb::BackupMetadata, read after all shards
//! 20261201T034500Z/manifest.json              end: only with it the backup is complete
//! ```
//!
//! Invariant: what a manifest names was written before it, so a complete backup lacks nothing, and
//! all that is in it is covered by the manifest's checksum or by that of a part.
//!
//! | file | contents |
//! | --- | --- |
//! | `format` | names and JSON files of a backup |
//! | `part` | its parts: compressed, with a checksum |
//! | `target` | the place of backups: a folder, or a bucket of an S3-compatible store |
//! | `location` | parses the URL of such a place |
//! | `s3_client` | the HTTP client for S3 |
//! | `reader` | reads a complete backup, and checks all that it reads |
//! | `service` | backups that this node makes, one at a time |
//! | `job` | makes one: reads all shards, and then the metadata |
//! | `resume` | chooses whether it goes on with one that was interrupted |
//! | `writer_lease` | lets one node at a time write it |
//! | `part_writer`, `metadata_parts` | writes its parts; those of the metadata |
//! | `progress`, `status` | lines on its progress; status and metrics |
//! | `listing` | lists backups |
//! | `verification` | verifies a complete one |
//! | `error` | reasons for which that fails |

mod error;
mod format;
mod job;
mod listing;
mod location;
mod metadata_parts;
mod part;
mod part_writer;
mod progress;
mod reader;
mod resume;
mod s3_client;
mod service;
mod status;
mod target;
mod verification;
mod writer_lease;

pub(crate) use error::BackupError;
pub(crate) use format::Manifest;
#[cfg(test)]
pub(crate) use format::{
    BackupStart, FORMAT, MANIFEST_FILE, METADATA_DIR, PartEntry, START_FILE, ShardEntry, id_at,
    part_name, shard_dir, shard_file, to_json,
};
pub(crate) use listing::{BackupInfo, complete_backups, list_backups};
#[cfg(test)]
pub(crate) use part::encode_part;
pub(crate) use progress::BackupLine;
pub(crate) use reader::{PartReader, read_manifest};
pub(crate) use service::{BackupRun, BackupStartError, Backups};
pub(crate) use status::BackupStatus;
pub(crate) use target::BackupTarget;
pub(crate) use verification::verify_backup;
