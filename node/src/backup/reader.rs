//! Reads a complete backup. All that is read is checked.

use std::vec;

use tokio_util::task::AbortOnDropHandle;

use super::error::BackupError;
use super::format::{MANIFEST_FILE, Manifest, PartEntry, START_FILE, parse_id};
use super::part::{PartContent, decode_content};
use super::target::BackupTarget;

/// Reads and checks the manifest of a backup.
///
/// # Errors
/// Fails if the backup isn't complete, or if a later version has made it.
pub(crate) async fn read_manifest(
    target: &BackupTarget,
    id: &str,
) -> Result<Manifest, BackupError> {
    let bytes = match parse_id(id) {
        Some(_) => target.find(id, MANIFEST_FILE).await?,
        None => return Err(unknown(target, id)),
    };
    let Some(bytes) = bytes else {
        return Err(without_manifest(target, id).await?);
    };
    let manifest = Manifest::parse(id, &bytes)?;
    manifest.verify_checksum()?;
    manifest.check_content(id)?;
    Ok(manifest)
}

/// Returns the error of a backup that has no manifest.
pub(super) async fn without_manifest(
    target: &BackupTarget,
    id: &str,
) -> Result<BackupError, BackupError> {
    Ok(match target.find(id, START_FILE).await? {
        Some(_) => BackupError::Incomplete { id: id.to_owned() },
        None => unknown(target, id),
    })
}

fn unknown(target: &BackupTarget, id: &str) -> BackupError {
    BackupError::Unknown {
        url: target.url().to_owned(),
        id: id.to_owned(),
    }
}

/// Reads a part, and checks it.
pub(super) async fn read_part<T: PartContent>(
    target: BackupTarget,
    id: String,
    entry: PartEntry,
) -> Result<T, BackupError> {
    let bytes = target.get(&id, &entry.name).await?;
    tokio::task::spawn_blocking(move || decode_content(&bytes, &entry)).await?
}

/// Reads parts in their order, one of them ahead: two are in memory at most.
pub(crate) struct PartReader<T> {
    target: BackupTarget,
    id: String,
    entries: vec::IntoIter<PartEntry>,
    next: Option<AbortOnDropHandle<Result<T, BackupError>>>,
}

impl<T: PartContent> PartReader<T> {
    /// Begins to read parts of a backup, on the current runtime.
    pub(crate) fn new(target: &BackupTarget, id: &str, entries: Vec<PartEntry>) -> Self {
        let mut reader = Self {
            target: target.clone(),
            id: id.to_owned(),
            entries: entries.into_iter(),
            next: None,
        };
        reader.begin_next();
        reader
    }

    fn begin_next(&mut self) {
        self.next = self.entries.next().map(|entry| {
            let read = read_part(self.target.clone(), self.id.clone(), entry);
            AbortOnDropHandle::new(tokio::spawn(read))
        });
    }

    /// Returns the next part; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, BackupError> {
        let Some(next) = self.next.take() else {
            return Ok(None);
        };
        let part = next.await??;
        self.begin_next();
        Ok(Some(part))
    }
}
