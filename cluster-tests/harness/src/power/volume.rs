//! The file system: files, names and faults.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::disk_faults::{Area, DiskFaults};
use super::file_contents::{CrashConsistency, FileContents};
use super::namespace::{EntryKey, Inode, Namespace, ROOT};
use crate::rng::Rng;

/// Folder with the guarantees of a journaling file system.
const JOURNALED_FOLDER: &str = "state";

pub(super) type Result<T> = std::result::Result<T, Errno>;

/// A file or directory.
#[derive(Debug)]
pub(super) struct FileNode {
    /// Top folder of the data directory that contains it, or its own name there.
    folder: OsString,
    /// Contents of a file; `None` for a directory.
    pub contents: Option<FileContents>,
    pub modified: SystemTime,
    /// Number of open handles.
    pub open_handles: u64,
}

impl FileNode {
    pub(super) fn is_file(&self) -> bool {
        self.contents.is_some()
    }

    pub(super) fn size(&self) -> u64 {
        self.contents.as_ref().map_or(0, FileContents::size)
    }

    pub(super) fn guarantee(&self) -> CrashConsistency {
        if self.folder == JOURNALED_FOLDER {
            CrashConsistency::Journaled
        } else {
            CrashConsistency::Posix
        }
    }

    fn is_in(&self, area: Area) -> bool {
        area.contains(&self.folder.to_string_lossy())
    }
}

/// A file system.
#[derive(Debug)]
pub(super) struct Volume {
    /// Folder of the host with the newest bytes of files.
    host_dir: PathBuf,
    pub names: Namespace,
    pub nodes: BTreeMap<Inode, FileNode>,
    next_inode: Inode,
    faults: DiskFaults,
    /// Decides which pages failed syncs drop.
    rng: Rng,
    /// All calls fail while the power is off.
    pub is_off: bool,
    /// Number of interrupts, each of which aborts the waiting syncs.
    pub interrupts: u64,
    /// Number of slow syncs that wait.
    pub waiting_syncs: u64,
}

impl Volume {
    /// Creates an empty volume, which stores its files' bytes in `host_dir`.
    pub(super) fn new(host_dir: PathBuf) -> Self {
        let root = FileNode {
            folder: OsString::new(),
            contents: None,
            modified: SystemTime::now(),
            open_handles: 0,
        };
        Self {
            host_dir,
            names: Namespace::default(),
            nodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT + 1,
            faults: DiskFaults::default(),
            rng: Rng::new(0),
            is_off: false,
            interrupts: 0,
            waiting_syncs: 0,
        }
    }

    /// Sets the faults from here on.
    pub(super) fn set_faults(&mut self, faults: DiskFaults) {
        self.rng = Rng::new(faults.seed);
        self.faults = faults;
    }

    /// Returns the duration of slow syncs.
    pub(super) fn sync_delay(&self) -> Duration {
        self.faults.sync_delay
    }

    /// Returns whether a call fails because of a fault in this area; counts the failure.
    fn fails(&mut self, inode: Inode, area: impl Fn(&DiskFaults) -> Area) -> Result<bool> {
        let is_in = self.node(inode)?.is_in(area(&self.faults));
        Ok(is_in && self.take_failure())
    }

    fn take_failure(&mut self) -> bool {
        match &mut self.faults.failed_calls {
            None => true,
            Some(0) => false,
            Some(remaining) => {
                *remaining -= 1;
                true
            }
        }
    }

    fn host_file(&self, inode: Inode) -> PathBuf {
        self.host_dir.join(inode.to_string())
    }

    pub(super) fn node(&self, inode: Inode) -> Result<&FileNode> {
        if self.is_off {
            return Err(Errno::IO);
        }
        self.nodes.get(&inode).ok_or(Errno::NOENT)
    }

    fn contents(&mut self, inode: Inode) -> Result<&mut FileContents> {
        self.node(inode)?;
        let node = self.nodes.get_mut(&inode).ok_or(Errno::NOENT)?;
        node.modified = SystemTime::now();
        node.contents.as_mut().ok_or(Errno::ISDIR)
    }

    pub(super) fn find(&self, directory: Inode, name: &OsStr) -> Result<Inode> {
        self.node(directory)?;
        self.names.find(directory, name).ok_or(Errno::NOENT)
    }

    pub(super) fn list(&self, directory: Inode) -> Result<Vec<(OsString, Inode)>> {
        self.node(directory)?;
        let list = self.names.list(directory);
        Ok(list.map(|(name, inode)| (name.to_owned(), inode)).collect())
    }

    /// Creates a file or directory.
    pub(super) fn create(&mut self, place: EntryKey, is_file: bool) -> Result<Inode> {
        let parent = self.node(place.0)?;
        let folder = if place.0 == ROOT {
            place.1.clone()
        } else {
            parent.folder.clone()
        };
        if self.names.find(place.0, &place.1).is_some() {
            return Err(Errno::EXIST);
        }
        let mut node = FileNode {
            folder,
            contents: None,
            modified: SystemTime::now(),
            open_handles: 0,
        };
        if node.is_in(self.faults.is_full) && self.take_failure() {
            return Err(Errno::NOSPC);
        }
        if node.is_in(self.faults.writes_fail) && self.take_failure() {
            return Err(Errno::IO);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        if is_file {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create_new(true);
            let newest = options.open(self.host_file(inode)).map_err(errno)?;
            node.contents = Some(FileContents::new(newest));
        }
        self.nodes.insert(inode, node);
        self.names.link(place, inode);
        Ok(inode)
    }

    /// Removes a name.
    pub(super) fn unlink(&mut self, place: EntryKey, is_file: bool) -> Result<()> {
        let inode = self.find(place.0, &place.1)?;
        match (is_file, self.node(inode)?.is_file()) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (true, true) | (false, false) => {}
        }
        if self.names.list(inode).next().is_some() {
            return Err(Errno::NOTEMPTY);
        }
        self.names.unlink(place);
        self.remove_unused();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: EntryKey, to: EntryKey) -> Result<()> {
        self.find(from.0, &from.1)?;
        if let Ok(replaced) = self.find(to.0, &to.1)
            && !self.node(replaced)?.is_file()
        {
            return Err(Errno::ISDIR);
        }
        self.names.rename(from, to);
        self.remove_unused();
        Ok(())
    }

    pub(super) fn open(&mut self, inode: Inode) -> Result<()> {
        self.node(inode)?;
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.open_handles += 1;
        }
        Ok(())
    }

    pub(super) fn release(&mut self, inode: Inode) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.open_handles = node.open_handles.saturating_sub(1);
            if node.open_handles == 0 {
                self.remove_unused();
            }
        }
    }

    pub(super) fn read(&mut self, inode: Inode, offset: u64, length: u64) -> Result<Vec<u8>> {
        if self.fails(inode, |trouble| trouble.reads_fail)? {
            return Err(Errno::IO);
        }
        self.contents(inode)?.read(offset, length).map_err(errno)
    }

    pub(super) fn write(&mut self, inode: Inode, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_writable(inode)?;
        self.contents(inode)?.write(offset, bytes).map_err(errno)
    }

    pub(super) fn resize(&mut self, inode: Inode, size: u64) -> Result<()> {
        self.check_writable(inode)?;
        self.contents(inode)?.resize(size).map_err(errno)
    }

    fn check_writable(&mut self, inode: Inode) -> Result<()> {
        if self.fails(inode, |trouble| trouble.writes_fail)? {
            return Err(Errno::IO);
        }
        if self.fails(inode, |trouble| trouble.is_full)? {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }

    /// Returns whether a sync of this inode is slow.
    pub(super) fn is_slow(&self, inode: Inode) -> bool {
        let node = self.nodes.get(&inode);
        node.is_some_and(|node| node.is_in(self.faults.slow_syncs))
    }

    /// Makes a file's contents, or a directory's names, durable.
    pub(super) fn sync(&mut self, inode: Inode) -> Result<()> {
        let is_file = self.node(inode)?.is_file();
        if self.fails(inode, |trouble| trouble.syncs_fail)? {
            let node = self.nodes.get_mut(&inode);
            if let Some(contents) = node.and_then(|node| node.contents.as_mut()) {
                contents.fail_sync(&mut self.rng).map_err(errno)?;
            }
            return Err(Errno::IO);
        }
        if is_file {
            self.contents(inode)?.sync();
        } else {
            self.names.sync(inode);
            self.remove_unused();
        }
        Ok(())
    }

    /// Removes inodes that have no name, can't get one again, and aren't open.
    pub(super) fn remove_unused(&mut self) {
        let named = self.names.referenced_inodes();
        let host = &self.host_dir;
        self.nodes.retain(|inode, node| {
            let is_used = *inode == ROOT || node.open_handles > 0 || named.contains(inode);
            if !is_used && node.is_file() {
                // The file is in a temporary folder, which is removed later.
                let _ = std::fs::remove_file(host.join(inode.to_string()));
            }
            is_used
        });
    }

    /// Returns the paths of all files, and of their bytes on the host.
    pub(super) fn file_paths(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut files = Vec::new();
        let mut directories = vec![(ROOT, PathBuf::new())];
        while let Some((directory, path)) = directories.pop() {
            for (name, inode) in self.names.list(directory) {
                match self.nodes.get(&inode) {
                    Some(node) if node.is_file() => {
                        files.push((path.join(name), self.host_file(inode)));
                    }
                    Some(_) => directories.push((inode, path.join(name))),
                    None => {}
                }
            }
        }
        files
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
