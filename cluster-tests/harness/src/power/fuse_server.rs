//! FUSE server: translates the kernel's calls to calls of a [`Volume`].
//!
//! The kernel caches no names and sizes (their time to live is zero), and drops a file's pages when
//! it is opened again; so the next process sees the effects of a power loss. It passes on every
//! write at once, so nothing waits in its memory when a process is killed.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use super::namespace::Inode;
use super::shared_volume::SharedVolume;
use super::volume::{FileNode, Result, Volume};

/// Number of threads that serve the kernel.
const FUSE_THREADS: usize = 2;
/// Time for which the kernel may cache attributes and entries.
const CACHE_TTL: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4096;
/// Number of blocks of the disk; all of them are reported as free.
const BLOCK_COUNT: u64 = 64 << 20;

/// Mounts a volume at `at`, an empty folder, until the session is dropped.
pub(super) fn mount(shared: &Arc<SharedVolume>, at: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("cloudkv-power".into()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    config.n_threads = Some(FUSE_THREADS);
    fuser::spawn_mount(FuseServer(shared.clone()), at, &config)
}

struct FuseServer(Arc<SharedVolume>);

impl FuseServer {
    fn with_volume<T>(
        &self,
        work: impl FnOnce(&mut Volume) -> Result<T>,
    ) -> std::result::Result<T, fuser::Errno> {
        work(&mut self.0.lock()).map_err(fuse_errno)
    }

    fn attr(&self, inode: Inode) -> std::result::Result<FileAttr, fuser::Errno> {
        self.with_volume(|volume| Ok(attr(inode, volume.node(inode)?)))
    }

    /// Syncs, at once or after the commanded delay; a delayed sync runs on a thread of its own, so
    /// that other calls go on.
    fn sync(&self, inode: Inode, reply: ReplyEmpty) {
        let shared = self.0.clone();
        let delay = {
            let volume = shared.lock();
            volume.is_slow(inode).then_some(volume.sync_delay())
        };
        match delay {
            None => reply_empty(self.with_volume(|volume| volume.sync(inode)), reply),
            Some(delay) => {
                std::thread::spawn(move || {
                    let synced = sync_after(&shared, inode, delay);
                    reply_empty(synced.map_err(fuse_errno), reply);
                });
            }
        }
    }
}

/// Syncs after the delay; fails if the power is turned off or the process is killed meanwhile.
fn sync_after(shared: &SharedVolume, inode: Inode, delay: Duration) -> Result<()> {
    let deadline = Instant::now() + delay;
    let mut volume = shared.lock();
    let before = volume.interrupts;
    volume.waiting_syncs += 1;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let is_aborted = volume.interrupts != before;
        if is_aborted || remaining.is_zero() || !volume.is_slow(inode) {
            volume.waiting_syncs -= 1;
            return if is_aborted {
                Err(Errno::IO)
            } else {
                volume.sync(inode)
            };
        }
        let waited = shared.state_changed.wait_timeout(volume, remaining);
        volume = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn fuse_errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

fn reply_empty(result: std::result::Result<(), fuser::Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn attr(inode: Inode, node: &FileNode) -> FileAttr {
    let (kind, perm) = if node.is_file() {
        (FileType::RegularFile, 0o644)
    } else {
        (FileType::Directory, 0o755)
    };
    FileAttr {
        ino: INodeNo(inode),
        size: node.size(),
        blocks: node.size().div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: node.modified,
        ctime: node.modified,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for FuseServer {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.with_volume(|volume| {
            let inode = volume.find(parent.0, name)?;
            Ok(attr(inode, volume.node(inode)?))
        });
        match found {
            Ok(attr) => reply.entry(&CACHE_TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(inode.0) {
            Ok(attr) => reply.attr(&CACHE_TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.with_volume(|volume| {
            if let Some(size) = size {
                volume.resize(inode.0, size)?;
            }
            Ok(attr(inode.0, volume.node(inode.0)?))
        });
        match changed {
            Ok(attr) => reply.attr(&CACHE_TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let created = self.with_volume(|volume| {
            let inode = volume.create((parent.0, name.to_owned()), false)?;
            Ok(attr(inode, volume.node(inode)?))
        });
        match created {
            Ok(attr) => reply.entry(&CACHE_TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let place = (parent.0, name.to_owned());
        reply_empty(self.with_volume(|volume| volume.unlink(place, true)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let place = (parent.0, name.to_owned());
        reply_empty(
            self.with_volume(|volume| volume.unlink(place, false)),
            reply,
        );
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(fuse_errno(Errno::INVAL));
        }
        let from = (parent.0, name.to_owned());
        let to = (new_parent.0, new_name.to_owned());
        reply_empty(self.with_volume(|volume| volume.rename(from, to)), reply);
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.with_volume(|volume| volume.open(inode.0)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.with_volume(|volume| {
            let inode = volume.create((parent.0, name.to_owned()), true)?;
            volume.open(inode)?;
            Ok(attr(inode, volume.node(inode)?))
        });
        let no_flags = FopenFlags::empty();
        match created {
            Ok(attr) => reply.created(&CACHE_TTL, &attr, Generation(0), FileHandle(0), no_flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with_volume(|volume| volume.read(inode.0, offset, u64::from(size))) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with_volume(|volume| volume.write(inode.0, offset, bytes)) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    /// Handles the close of a file, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.lock().release(inode.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode.0, reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode.0, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.with_volume(|volume| {
            let mut entries = vec![
                (inode.0, FileType::Directory, ".".into()),
                (inode.0, FileType::Directory, "..".into()),
            ];
            for (name, inode) in volume.list(inode.0)? {
                entries.push((inode, attr(inode, volume.node(inode)?).kind, name));
            }
            Ok(entries)
        });
        let entries = match listed {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (inode, kind, name)) in entries.into_iter().enumerate().skip(skip) {
            if reply.add(INodeNo(inode), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(
            BLOCK_COUNT,
            BLOCK_COUNT,
            BLOCK_COUNT,
            1 << 20,
            1 << 20,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Reserves space, which is unlimited.
    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self.with_volume(|volume| {
            let size = volume.node(inode.0)?.size();
            match mode {
                0 if offset + length > size => volume.resize(inode.0, offset + length),
                // Mode 1 keeps the size.
                0 | 1 => Ok(()),
                _ => Err(Errno::OPNOTSUPP),
            }
        });
        reply_empty(done, reply);
    }
}
