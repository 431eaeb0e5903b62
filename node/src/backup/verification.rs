//! Verifies a complete backup: everything that it consists of is read and checked.

use cloudkv_proto::v1 as pb;
use futures_util::{StreamExt, stream};
use serde::de::DeserializeOwned;

use super::error::BackupError;
use super::format::{
    MANIFEST_FILE, Manifest, PartEntry, START_FILE, from_json, parse_id, shard_file,
};
use super::reader::{read_part, without_manifest};
use super::target::BackupTarget;

/// Number of parts that are read at the same time.
const CONCURRENT_PARTS: usize = 4;

/// A part, and what it holds.
enum Part {
    Records(PartEntry),
    Metadata(PartEntry),
}

/// Verifies a complete backup. Returns what is wrong with it, with the names of all files that are
/// damaged or missing; nothing if it is intact. Passes to `progress` how many parts are verified,
/// and how many there are.
///
/// # Errors
/// Fails if the backup isn't complete, if a later version has made it, or if it can't be read for
/// another reason than damage.
pub(crate) async fn verify_backup(
    target: &BackupTarget,
    id: &str,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Vec<String>, BackupError> {
    let bytes = match parse_id(id) {
        Some(_) => target.find(id, MANIFEST_FILE).await?,
        None => None,
    };
    let Some(bytes) = bytes else {
        return Err(without_manifest(target, id).await?);
    };
    let mut problems = Problems::default();
    let Some(manifest) = problems.collect(Manifest::parse(id, &bytes))? else {
        return Ok(problems.0);
    };
    if problems.collect(manifest.verify_checksum())?.is_some() {
        problems.collect(manifest.check_content(id))?;
    }
    let start = check_json(target, id, START_FILE, &manifest.start).await;
    problems.collect(start)?;
    for shard in &manifest.shard_files {
        let entry = check_json(target, id, &shard_file(shard.shard), shard).await;
        problems.collect(entry)?;
    }
    verify_parts(target, id, manifest, &mut problems, progress).await?;
    Ok(problems.0)
}

async fn verify_parts(
    target: &BackupTarget,
    id: &str,
    manifest: Manifest,
    problems: &mut Problems,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<(), BackupError> {
    let shards = manifest.shard_files.into_iter();
    let records = shards.flat_map(|shard| shard.parts).map(Part::Records);
    let metadata = manifest.metadata.into_iter().map(Part::Metadata);
    let parts: Vec<Part> = records.chain(metadata).collect();
    let (mut done, all) = (0, parts.len() as u64);
    let (target, id) = (target.clone(), id.to_owned());
    let checks = stream::iter(parts).map(|part| check_part(target.clone(), id.clone(), part));
    let mut checks = checks.buffered(CONCURRENT_PARTS);
    while let Some(checked) = checks.next().await {
        problems.collect(checked)?;
        done += 1;
        progress(done, all);
    }
    Ok(())
}

async fn check_part(target: BackupTarget, id: String, part: Part) -> Result<(), BackupError> {
    match part {
        Part::Records(entry) => {
            read_part::<pb::BackupRecords>(target, id, entry).await?;
        }
        Part::Metadata(entry) => {
            read_part::<pb::BackupMetadata>(target, id, entry).await?;
        }
    }
    Ok(())
}

/// Checks that a JSON file has what the manifest repeats.
async fn check_json<T: DeserializeOwned + PartialEq>(
    target: &BackupTarget,
    id: &str,
    name: &str,
    expected: &T,
) -> Result<(), BackupError> {
    let read: T = from_json(name, &target.get(id, name).await?)?;
    if read == *expected {
        return Ok(());
    }
    Err(BackupError::Damaged {
        name: name.to_owned(),
        why: format!("it isn't what {MANIFEST_FILE} has of it"),
    })
}

/// What is wrong with a backup.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// Records damage; returns another error.
    fn collect<T>(&mut self, checked: Result<T, BackupError>) -> Result<Option<T>, BackupError> {
        match checked {
            Ok(checked) => Ok(Some(checked)),
            Err(damage) if damage.is_damage() => {
                self.0.push(damage.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "verification_tests.rs"]
mod tests;
