//! A disk that can lose power: a file system in this process, under a node's data directory.
//!
//! A killed process leaves all its writes to the kernel; only a power loss takes what wasn't
//! synced. This file system knows what was synced: [`Disk::power_on`] leaves of the rest what a
//! seed decides, as a real disk may.
//!
//! *Visible* is what processes read and write. *Durable* is what survives every power loss:
//!
//! - of a file's contents, those at its last `fsync` or `fdatasync` (`file_contents`). Writes with
//!   `O_DIRECT` count as any other: a disk has a cache of its own. Of later writes, a power loss
//!   keeps everything, nothing, or for each sector of 512 bytes any version that it had;
//! - of names, those at the last `fsync` of their directory (`namespace`). A file that was synced
//!   itself is lost if its name wasn't. Of later changes, a power loss keeps any that can be
//!   without the others; a rename is atomic.
//!
//! That is as little as POSIX promises. RocksDB needs more, which journaling file systems give
//! (ext4, XFS), so its folder gets that ([`CrashConsistency::Journaled`]), and nothing else does:
//! appended bytes are lost from the end on, without holes, and names change in the order in which
//! they were changed. Still nothing is durable there without a sync.
//!
//! A disk can also fail on command ([`DiskFaults`]): reads, writes and syncs with `EIO`, writes
//! with `ENOSPC`, and syncs that take long. A failed sync of a file does what Linux does: it drops
//! some or all of the dirty pages, which are read as they were written until they are evicted
//! ([`Disk::evict`]), and which no later sync writes, however often and by whomever it is tried. A
//! failed sync of names leaves them for the next one: a journal that can't be written makes the
//! file system read-only instead.
//!
//! A disk is unmounted when it is dropped, also after a panic. If its process is killed, the mount
//! stays without a server, until `umount`.
//!
//! | file | purpose |
//! | --- | --- |
//! | `file_contents` | one file: its newest and its durable bytes |
//! | `namespace` | directories: their visible and their durable names |
//! | `volume` | the file system: files, names and faults |
//! | `data_loss`, `disk_faults` | what a power loss leaves; faults on command |
//! | `shared_volume` | the volume that server and handle share |
//! | `fuse_server` | serves the kernel's calls (Linux alone) |
//! | `disk` | the handle of tests |

mod data_loss;
mod disk;
mod disk_faults;
mod file_contents;
#[cfg(test)]
mod file_contents_tests;
#[cfg(target_os = "linux")]
mod fuse_server;
mod namespace;
mod shared_volume;
mod volume;
#[cfg(test)]
mod volume_tests;

pub use data_loss::DataLoss;
pub use disk::Disk;
pub use disk_faults::{Area, DiskFaults};
pub use file_contents::CrashConsistency;
