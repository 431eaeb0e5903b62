//! Files of an export of a data directory: one for each bucket, with the lines of an import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cloudkv_proto::v1 as pb;

use crate::api::{write_deletion_line, write_key_line};
use crate::types::{BucketId, Nanos, StoredValue, Version};

/// Permissions of a directory and of its files: only their user may read them.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Files of the buckets, in one directory. What is written is durable after [`Self::finish`].
pub(super) struct ExportFiles {
    dir: PathBuf,
    buckets: BTreeSet<BucketId>,
    lines: u64,
}

impl ExportFiles {
    /// Creates the directory, if it is missing. Files of buckets must not be in it.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE).create(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            buckets: BTreeSet::new(),
            lines: 0,
        })
    }

    /// Number of lines.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Number of buckets.
    pub(super) fn buckets(&self) -> u64 {
        self.buckets.len() as u64
    }

    /// Writes a line for each record: a put, also of a key that has expired, or a deletion. They
    /// are few enough for the memory. Blocks.
    pub(super) fn write_records(&mut self, records: Vec<pb::KeyRecord>) -> io::Result<()> {
        let mut lines: BTreeMap<BucketId, Vec<u8>> = BTreeMap::new();
        for entry in records {
            let bucket = BucketId::parse(&entry.bucket);
            let bucket = bucket.ok_or_else(|| io::Error::other("a record has no valid bucket"))?;
            write_line(lines.entry(bucket).or_default(), entry)?;
            self.lines += 1;
        }
        for (bucket, lines) in lines {
            self.append(bucket, &lines)?;
        }
        Ok(())
    }

    /// Writes a line for each record whose key is live at `now`. Blocks.
    pub(super) fn write_live_records(
        &mut self,
        mut records: Vec<pb::KeyRecord>,
        now: Nanos,
    ) -> io::Result<()> {
        let is_live = |record: &pb::Record| {
            !record.tombstone && (record.expires_at == 0 || now < record.expires_at)
        };
        records.retain(|entry| entry.record.as_ref().is_some_and(is_live));
        self.write_records(records)
    }

    fn append(&mut self, bucket: BucketId, lines: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        if self.buckets.insert(bucket) {
            options.write(true).create_new(true).mode(FILE_MODE);
        } else {
            options.append(true);
        }
        options.open(self.path(bucket))?.write_all(lines)
    }

    fn path(&self, bucket: BucketId) -> PathBuf {
        self.dir.join(format!("{}.ndjson", bucket.as_str()))
    }

    /// Makes all files durable. Blocks.
    pub(super) fn finish(&self) -> io::Result<()> {
        for bucket in &self.buckets {
            File::open(self.path(*bucket))?.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

fn write_line(out: &mut Vec<u8>, entry: pb::KeyRecord) -> io::Result<()> {
    let record = entry.record.unwrap_or_default();
    let version = record.version.map(Version::from).unwrap_or_default();
    let written = if record.tombstone {
        write_deletion_line(out, &entry.key, version)
    } else {
        let stored = StoredValue {
            value: record.value,
            content_type: record.content_type,
            version,
            expires_at: (record.expires_at != 0).then_some(record.expires_at),
            metadata: record.metadata,
        };
        write_key_line(out, &entry.key, &stored)
    };
    written.map_err(|_| io::Error::other("a record can't be written as a line of an import"))
}
