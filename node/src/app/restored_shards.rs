//! The shards of a restored cluster. Each record goes to the shard of its key, whether or not there
//! are as many shards as there were.
//!
//! Records share the buffer of the part that they were read from: all of a part is written before
//! the next one is taken, so that few parts are in memory.

use std::collections::HashSet;
use std::io;
use std::mem;
use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};

use super::restore_error::RestoreError;
use crate::backup::{BackupTarget, Manifest, PartReader};
use crate::cluster::Identity;
use crate::raft::OfflineGroup;
use crate::shard::{KEY_METADATA_LEVEL, Shard, ShardState, StateMemory, shard_of};
use crate::store::Engine;
use crate::store::keys::GroupId;
use crate::types::{BucketId, Nanos};

/// Maximum number of records in a command.
const MAX_COMMAND_RECORDS: usize = 1000;
/// Size of the records at which a command is full, in bytes.
const MAX_COMMAND_BYTES: usize = 512 << 10;
/// Memory for recently written records of all shards, in bytes. None is written twice.
const RECORD_CACHE_BYTES: usize = 8 << 20;

/// Numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RestoreSummary {
    /// Records that were restored.
    pub restored: u64,
    /// Records that have expired.
    pub expired: u64,
    /// Records whose bucket the metadata doesn't have.
    pub orphaned: u64,
}

/// Shards of the new cluster.
pub(super) struct RestoredShards {
    shards: Vec<RestoredShard>,
    /// Number of the region.
    region: u32,
    /// Names of the buckets that the metadata has.
    buckets: HashSet<BucketId>,
    /// Time that expiries are compared with.
    now: Nanos,
    summary: RestoreSummary,
}

/// A shard, with the records of its next command.
struct RestoredShard {
    id: GroupId,
    group: OfflineGroup<Shard>,
    records: Vec<pb::KeyRecord>,
    bytes: usize,
}

impl RestoredShard {
    fn open(engine: &Arc<Engine>, number: u16, shards: u16) -> io::Result<Self> {
        let (id, db) = (GroupId::shard(number), engine.state.clone());
        let memory = StateMemory {
            record_cache: RECORD_CACHE_BYTES / usize::from(shards.max(1)),
            ..StateMemory::OFFLINE
        };
        let group = OfflineGroup::open(engine, id, |rows| ShardState::open(db, rows, memory))?;
        Ok(Self {
            id,
            group,
            records: Vec::new(),
            bytes: 0,
        })
    }

    async fn apply(&mut self, command: Command) -> Result<(), RestoreError> {
        let kind = Some(command);
        let applied = self.group.apply(pb::ShardCommand { kind }).await;
        applied.map(drop).map_err(failed(self.id))
    }

    async fn add(&mut self, record: pb::KeyRecord, bytes: usize) -> Result<(), RestoreError> {
        self.records.push(record);
        self.bytes += bytes;
        if self.records.len() >= MAX_COMMAND_RECORDS || self.bytes >= MAX_COMMAND_BYTES {
            self.write_records().await?;
        }
        Ok(())
    }

    async fn write_records(&mut self) -> Result<(), RestoreError> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let seed = pb::SeedChunk {
            records: mem::take(&mut self.records),
            ..Default::default()
        };
        self.apply(Command::Seed(seed)).await
    }
}

impl RestoredShards {
    /// Creates the shards, which serve nobody yet. Records of buckets other than these, and records
    /// that have expired at `now`, will be left out.
    pub(super) async fn open(
        engine: &Arc<Engine>,
        identity: &Identity,
        buckets: HashSet<BucketId>,
        now: Nanos,
    ) -> Result<Self, RestoreError> {
        let bootstrap = pb::BootstrapShard {
            region: identity.region_number,
            incarnation: identity.incarnation,
            // The metadata has at least this level.
            level: KEY_METADATA_LEVEL,
            must_seed: true,
        };
        let mut shards = Vec::with_capacity(usize::from(identity.shards));
        for number in 0..identity.shards {
            let shard = RestoredShard::open(engine, number, identity.shards);
            let mut shard = shard.map_err(failed(GroupId::shard(number)))?;
            shard.apply(Command::Bootstrap(bootstrap)).await?;
            shards.push(shard);
        }
        Ok(Self {
            shards,
            region: identity.region_number,
            buckets,
            now,
            summary: RestoreSummary::default(),
        })
    }

    /// Reads the records of all shards of a backup, and writes them to the shards of their keys.
    pub(super) async fn restore(
        &mut self,
        target: &BackupTarget,
        manifest: &Manifest,
        report: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), RestoreError> {
        let (id, count) = (&manifest.start.id, manifest.shard_files.len());
        for (done, entry) in (1..).zip(&manifest.shard_files) {
            let mut parts = PartReader::<pb::BackupRecords>::new(target, id, entry.parts.clone());
            while let Some(part) = parts.next().await? {
                self.write_part(part).await?;
            }
            let records = self.summary.restored;
            report(&format!(
                "{done} of {count} shards read, {records} records restored"
            ));
        }
        Ok(())
    }

    async fn write_part(&mut self, part: pb::BackupRecords) -> Result<(), RestoreError> {
        let shards = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        for found in part.records {
            let Some(restored) = self.restored_record(found) else {
                continue;
            };
            let bytes = size_of_record(&restored);
            let number = shard_of(&restored.bucket, &restored.key, shards);
            if let Some(shard) = self.shards.get_mut(usize::from(number)) {
                shard.add(restored, bytes).await?;
                self.summary.restored += 1;
            }
        }
        for shard in &mut self.shards {
            shard.write_records().await?;
        }
        Ok(())
    }

    /// Returns the record as the new cluster's region has it: written by itself, at the time at
    /// which it was written. `None` if it is left out.
    fn restored_record(&mut self, found: pb::KeyRecord) -> Option<pb::KeyRecord> {
        let bucket = BucketId::parse(&found.bucket);
        if bucket.is_none_or(|bucket| !self.buckets.contains(&bucket)) {
            self.summary.orphaned += 1;
            return None;
        }
        let record = found.record.unwrap_or_default();
        let has_expired = record.expires_at != 0 && record.expires_at <= self.now;
        if record.tombstone || has_expired {
            self.summary.expired += 1;
            return None;
        }
        let version = pb::Version {
            time: record.version.unwrap_or_default().time,
            region: self.region,
        };
        let record = pb::Record {
            version: Some(version),
            change: 0,
            source: 0,
            ..record
        };
        Some(pb::KeyRecord {
            record: Some(record),
            ..found
        })
    }

    /// Lets the shards serve, with this node as the only voter of each. All later versions will be
    /// above `last_version`. Durable when it returns.
    pub(super) async fn finish(
        mut self,
        identity: &Identity,
        last_version: Nanos,
    ) -> Result<RestoreSummary, RestoreError> {
        for shard in &mut self.shards {
            let end = pb::SeedPosition {
                cursors: Vec::new(),
                last_version,
            };
            let seed = pb::SeedChunk {
                end: Some(end),
                ..Default::default()
            };
            shard.apply(Command::Seed(seed)).await?;
            // Its address isn't known yet; nobody asks for a node's own.
            let alone = shard.group.become_sole_voter(identity.node_id, "").await;
            alone.map_err(failed(shard.id))?;
        }
        Ok(self.summary)
    }
}

fn size_of_record(restored: &pb::KeyRecord) -> usize {
    let record = restored.record.as_ref();
    let content = record.map_or(0, |record| record.value.len() + record.metadata.len());
    restored.key.len() + content
}

fn failed(group: GroupId) -> impl Fn(io::Error) -> RestoreError {
    move |source| RestoreError::Group { group, source }
}
