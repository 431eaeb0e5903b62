//! Files of lines that a node alone had when its region left, to be imported once it has joined
//! anew.
//!
//! ```text
//! recovered.new/<bucket>.ndjson                    being exported
//! recovered/<bucket>.<node>.ndjson                 to be imported; the node is that of the export
//! recovered/<bucket>.<node>.ndjson.imported        imported
//! recovered/<bucket>.<node>.ndjson.skipped         its bucket was deleted
//! recovered/<bucket>.<node>.failed.ndjson          its lines that failed
//! recovered/<node>.json                            scope of the export: `RejoinScope`
//! ```
//!
//! A file belongs to one export, so a second recovery loses nothing of the first one's.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::raft::NodeId;
use crate::types::BucketId;

/// Directory of the files, in the data directory.
pub(super) const RECOVERED_DIR: &str = "recovered";
/// Directory of an export that isn't complete.
pub(super) const EXPORT_DIR: &str = "recovered.new";

/// File of lines that is to be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecoveredFile {
    /// Bucket of the lines.
    pub bucket: BucketId,
    /// Node that has exported them.
    pub node: NodeId,
    /// Path of the file.
    pub path: PathBuf,
}

/// Name of the file with the scope of a node's export.
pub(super) fn scope_file(node: NodeId) -> String {
    format!("{node}.json")
}

/// Lists the files of `dir` that are to be imported, in the order of their names. Blocks.
pub(super) fn list(dir: &Path) -> io::Result<Vec<RecoveredFile>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        files.extend(RecoveredFile::parse(entry?.path()));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Moves the files of a complete export to `to`, durably. Returns their number. Blocks.
pub(super) fn adopt(from: &Path, to: &Path, node: NodeId) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let is_lines = path
            .extension()
            .is_some_and(|extension| extension == "ndjson");
        if let Some(bucket) = stem.filter(|_| is_lines) {
            fs::rename(&path, to.join(format!("{bucket}.{node}.ndjson")))?;
            count += 1;
        }
    }
    File::open(to)?.sync_all()?;
    File::open(from)?.sync_all()?;
    Ok(count)
}

impl RecoveredFile {
    /// Parses a path; `None` if it is of another kind.
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (bucket, node) = name.strip_suffix(".ndjson")?.split_once('.')?;
        Some(Self {
            bucket: BucketId::parse(bucket.as_bytes())?,
            node: node.parse().ok()?,
            path,
        })
    }

    /// Marks the file as imported, after the lines that failed were copied. Durable when this
    /// returns. Blocks.
    pub(super) fn finish(&self, failed_lines: &[u64]) -> io::Result<()> {
        if !failed_lines.is_empty() {
            let failed = self.path.with_extension("failed.ndjson");
            copy_lines(&self.path, &failed, failed_lines)?;
        }
        self.rename_with(".imported")
    }

    /// Marks the file as one whose bucket was deleted. Durable when this returns. Blocks.
    pub(super) fn skip(&self) -> io::Result<()> {
        self.rename_with(".skipped")
    }

    fn rename_with(&self, suffix: &str) -> io::Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        fs::rename(&self.path, name)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Copies the lines with these ascending numbers, from 1 on.
fn copy_lines(from: &Path, to: &Path, numbers: &[u64]) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(from)?);
    let mut out = BufWriter::new(File::create(to)?);
    let (mut line, mut number) = (Vec::new(), 0);
    let mut wanted = numbers.iter().copied().peekable();
    while let Some(next) = wanted.peek().copied() {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        if number == next {
            out.write_all(&line)?;
            wanted.next();
        }
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: &str = "aAAAAAAAAAAAAA";

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_export_is_moved_beside_the_files_of_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&to).unwrap();
        assert!(list(&from).unwrap().is_empty());
        for node in [7, 8].map(NodeId::from) {
            fs::create_dir_all(&from).unwrap();
            fs::write(from.join(format!("{BUCKET}.ndjson")), "line\n").unwrap();
            fs::write(from.join("notes.txt"), "").unwrap();
            assert_eq!(adopt(&from, &to, node).unwrap(), 1);
        }
        let files = list(&to).unwrap();
        let nodes: Vec<u64> = files.iter().map(|file| file.node.into()).collect();
        assert_eq!(nodes, [7, 8]);
        assert!(files.iter().all(|file| file.bucket.as_str() == BUCKET));
    }

    #[test]
    fn only_lines_of_buckets_that_are_not_done_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "7.json",
            "aAAAAAAAAAAAAA.7.ndjson.imported",
            "aAAAAAAAAAAAAA.7.ndjson.skipped",
            "aAAAAAAAAAAAAA.7.failed.ndjson",
            "aAAAAAAAAAAAAA.ndjson",
            "b.7.ndjson",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), []);
    }

    #[test]
    fn failed_lines_are_kept_in_a_file_that_can_be_imported() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("{BUCKET}.7.ndjson");
        let path = dir.path().join(&name);
        fs::write(&path, "one\ntwo\n\nfour\nfive").unwrap();
        let file = RecoveredFile::parse(path).unwrap();
        file.finish(&[2, 4, 5, 9]).unwrap();
        let failed = format!("{BUCKET}.7.failed.ndjson");
        let imported = format!("{name}.imported");
        assert_eq!(names(dir.path()), [failed.clone(), imported]);
        let copied = fs::read_to_string(dir.path().join(failed)).unwrap();
        assert_eq!(copied, "two\nfour\nfive");
    }

    #[test]
    fn a_file_without_failures_leaves_nothing_but_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (node, mark) in [(7, "imported"), (8, "skipped")] {
            let path = dir.path().join(format!("{BUCKET}.{node}.ndjson"));
            fs::write(&path, "one\n").unwrap();
            let file = RecoveredFile::parse(path).unwrap();
            let done = if mark == "skipped" {
                file.skip()
            } else {
                file.finish(&[])
            };
            done.unwrap();
            let marked = format!("{BUCKET}.{node}.ndjson.{mark}");
            assert!(names(dir.path()).contains(&marked));
        }
        assert!(list(dir.path()).unwrap().is_empty());
        assert_eq!(names(dir.path()).len(), 2);
    }
}
