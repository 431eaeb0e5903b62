//! Chooses whether a backup goes on with one that was interrupted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::BackupError;
use super::format::{
    BackupStart, MANIFEST_FILE, START_FILE, ShardEntry, from_json, id_at, parse_id, shard_dir,
    shard_file, to_json,
};
use super::target::BackupTarget;

/// Age beyond which an interrupted backup isn't gone on with.
const MAX_RESUME_AGE: Duration = Duration::from_secs(24 * 3600);

/// Backup that is to be made.
#[derive(Debug)]
pub(super) struct BackupPlan {
    /// Its begin.
    pub start: BackupStart,
    /// True if it goes on with one that was interrupted.
    pub is_resumed: bool,
    /// Shards that are complete.
    pub kept: BTreeMap<u16, ShardEntry>,
}

/// Returns the interrupted backup with which one like `wanted`, begun at `now`, goes on; else
/// begins a new one, and so if `is_new`.
pub(super) async fn plan_backup(
    target: &BackupTarget,
    wanted: BackupStart,
    (now, is_new): (SystemTime, bool),
) -> Result<BackupPlan, BackupError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ids = target.list().await?;
    if !is_new {
        for id in ids.iter().rev() {
            let age = parse_id(id).map(|at| now.saturating_sub(at));
            if age.is_none_or(|age| age > MAX_RESUME_AGE.as_secs()) {
                continue;
            }
            if let Some(start) = find_interrupted(target, id, &wanted).await? {
                let kept = read_complete_shards(target, &start).await?;
                return Ok(BackupPlan {
                    start,
                    is_resumed: true,
                    kept,
                });
            }
        }
    }
    // IDs are of seconds, and one may have been begun in this one.
    let mut at = now;
    while ids.contains(&id_at(at)) {
        at += 1;
    }
    let started_at = UNIX_EPOCH + Duration::from_secs(at);
    let start = BackupStart {
        id: id_at(at),
        started_at: humantime::format_rfc3339_seconds(started_at).to_string(),
        ..wanted
    };
    let json = to_json(START_FILE, &start)?;
    target.put(&start.id, START_FILE, json).await?;
    Ok(BackupPlan {
        start,
        is_resumed: false,
        kept: BTreeMap::new(),
    })
}

/// Reads the begin of a backup of the same cluster and region that has no manifest.
async fn find_interrupted(
    target: &BackupTarget,
    id: &str,
    wanted: &BackupStart,
) -> Result<Option<BackupStart>, BackupError> {
    let Some(json) = target.find(id, START_FILE).await? else {
        return Ok(None);
    };
    // What can't be read is another version's, or damaged: no reason to make no backup.
    let Ok(start) = from_json::<BackupStart>(START_FILE, &json) else {
        return Ok(None);
    };
    let expected = BackupStart {
        id: id.to_owned(),
        version: start.version.clone(),
        started_at: start.started_at.clone(),
        ..wanted.clone()
    };
    if start != expected || target.find(id, MANIFEST_FILE).await?.is_some() {
        return Ok(None);
    }
    Ok(Some(start))
}

/// Reads the shards that were completed, and of which all parts are there.
async fn read_complete_shards(
    target: &BackupTarget,
    start: &BackupStart,
) -> Result<BTreeMap<u16, ShardEntry>, BackupError> {
    let mut complete = BTreeMap::new();
    for shard in 0..start.shards {
        let name = shard_file(shard);
        let Some(json) = target.find(&start.id, &name).await? else {
            continue;
        };
        let Ok(entry) = from_json::<ShardEntry>(&name, &json) else {
            continue;
        };
        let present = target.names(&start.id, &shard_dir(shard)).await?;
        if entry.shard == shard && entry.parts.iter().all(|part| present.contains(&part.name)) {
            complete.insert(shard, entry);
        }
    }
    Ok(complete)
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
