//! A folder on this machine with backups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// File that only a complete backup has.
const MANIFEST: &str = "manifest.json";
/// File that a shard has once it is complete.
const SHARD_FILE: &str = "shard.json";

/// A temporary folder for backups.
#[derive(Debug)]
pub struct BackupFolder {
    dir: TempDir,
}

impl BackupFolder {
    /// Creates an empty folder.
    pub fn create() -> Self {
        Self {
            dir: tempfile::tempdir().expect("make a temporary directory"),
        }
    }

    /// Returns the URL of the folder.
    pub fn url(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the IDs of all backups, ascending.
    pub fn ids(&self) -> Vec<String> {
        let mut ids = entries(self.path());
        ids.retain(|name| !name.starts_with('.'));
        ids
    }

    /// Returns the ID of the only backup.
    ///
    /// # Panics
    /// Panics if there are others, or none.
    pub fn id(&self) -> String {
        let ids = self.ids();
        let [id] = &ids[..] else {
            panic!("one backup was expected: {ids:?}");
        };
        id.clone()
    }

    /// Returns the path of a file of a backup.
    pub fn file(&self, id: &str, name: &str) -> PathBuf {
        self.path().join(id).join(name)
    }

    /// Returns whether a backup is complete.
    pub fn is_complete(&self, id: &str) -> bool {
        self.file(id, MANIFEST).is_file()
    }

    /// Returns the folders of the shards of a backup that are complete.
    pub fn complete_shards(&self, id: &str) -> Vec<String> {
        let mut folders = entries(&self.path().join(id));
        folders.retain(|folder| self.file(id, folder).join(SHARD_FILE).is_file());
        folders
    }

    /// Returns the parts of a backup, relative to it, in the order of their names.
    pub fn parts(&self, id: &str) -> Vec<String> {
        let mut parts = vec![];
        for folder in entries(&self.path().join(id)) {
            let names = entries(&self.file(id, &folder)).into_iter();
            let names = names.filter(|name| name.starts_with("part-") && name.ends_with(".zst"));
            parts.extend(names.map(|name| format!("{folder}/{name}")));
        }
        parts
    }
}

/// Returns the names in a directory, in their order; none if it is no directory.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return vec![];
    };
    let names = entries.map(|entry| entry.expect("list a directory").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}
