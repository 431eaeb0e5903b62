//! Lists the backups at a place.

use serde::Serialize;

use super::error::BackupError;
use super::format::{BackupStart, MANIFEST_FILE, Manifest, START_FILE, from_json};
use super::target::BackupTarget;

/// A backup, as its manifest describes it, or as far as it is known where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct BackupInfo {
    /// ID of the backup.
    pub id: String,
    /// True if it has a manifest.
    pub complete: bool,
    /// ID of the cluster; empty if it isn't known.
    pub cluster_id: String,
    /// Region whose shards were read; empty if it isn't known.
    pub region: String,
    /// Number of shards; 0 if it isn't known.
    pub shards: u16,
    /// Number of records; 0 if the backup isn't complete.
    pub records: u64,
    /// Compressed size in bytes; 0 if the backup isn't complete.
    pub bytes: u64,
    /// Time at which it began, RFC 3339; empty if it isn't known.
    pub started_at: String,
    /// Time at which it was complete, RFC 3339.
    pub finished_at: Option<String>,
    /// Reason for which its manifest, or the file with which it begins, can't be used.
    pub damage: Option<String>,
}

impl BackupInfo {
    fn of_complete(manifest: Manifest) -> Self {
        Self {
            complete: true,
            records: manifest.records,
            bytes: manifest.bytes,
            finished_at: Some(manifest.finished_at),
            ..Self::of_started(manifest.start)
        }
    }

    fn of_started(start: BackupStart) -> Self {
        Self {
            id: start.id,
            cluster_id: start.cluster_id,
            region: start.region,
            shards: start.shards,
            started_at: start.started_at,
            ..Self::default()
        }
    }
}

/// Lists all backups, complete or not, the oldest first. Of complete ones, nothing but the manifest
/// is read.
pub(crate) async fn list_backups(target: &BackupTarget) -> Result<Vec<BackupInfo>, BackupError> {
    let mut backups = Vec::new();
    for id in target.list().await? {
        backups.push(describe(target, id).await?);
    }
    Ok(backups)
}

async fn describe(target: &BackupTarget, id: String) -> Result<BackupInfo, BackupError> {
    let (complete, described) = match target.find(&id, MANIFEST_FILE).await? {
        Some(bytes) => (true, read_complete(&id, &bytes)),
        None => match target.find(&id, START_FILE).await? {
            Some(bytes) => (
                false,
                from_json(START_FILE, &bytes).map(BackupInfo::of_started),
            ),
            None => (false, Ok(BackupInfo::default())),
        },
    };
    Ok(match described {
        Ok(info) => BackupInfo { id, ..info },
        Err(damage) => BackupInfo {
            id,
            complete,
            damage: Some(damage.to_string()),
            ..BackupInfo::default()
        },
    })
}

fn read_complete(id: &str, bytes: &[u8]) -> Result<BackupInfo, BackupError> {
    let manifest = Manifest::parse(id, bytes)?;
    let damage = manifest.verify_checksum();
    let damage = damage.and_then(|()| manifest.check_content(id)).err();
    Ok(BackupInfo {
        damage: damage.map(|damage| damage.to_string()),
        ..BackupInfo::of_complete(manifest)
    })
}

/// Lists the IDs of the complete backups, the oldest first.
pub(crate) async fn complete_backups(target: &BackupTarget) -> Result<Vec<String>, BackupError> {
    let backups = list_backups(target).await?.into_iter();
    let complete = backups.filter(|backup| backup.complete);
    Ok(complete.map(|backup| backup.id).collect())
}
