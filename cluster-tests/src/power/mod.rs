//! A disk that loses power: a file system in this process, under a node's data directory.
//!
//! A killed process leaves all that it wrote to the kernel; only a power loss takes what wasn't
//! synced. This file system knows what was: [`Disk::cut`] leaves of the rest what a seed says, as a
//! real disk may.
//!
//! *Seen* is what processes read and write. *Durable* is what a power loss leaves for certain:
//!
//! - of a file's contents, what was there at its last `fsync` or `fdatasync` (`contents`). Writes
//!   with `O_DIRECT` count as any other: a disk has a cache of its own. Of what was written since,
//!   a cut keeps everything, nothing, or for each sector of 512 bytes any version that it had;
//! - of names, what the last `fsync` of their directory found (`names`). A file that was synced
//!   itself is gone when its name wasn't. Of the changes since, a cut keeps any that can be without
//!   the others; a rename happens as a whole or not at all.
//!
//! That is as little as POSIX promises. RocksDB counts on more, which journaling file systems give
//! (ext4, XFS), so its folder gets that ([`Guarantee::Journaled`]), and nothing else does: what was
//! appended is lost from its end on, without holes, and names change in the order in which they were
//! changed. Still nothing is durable there without a sync.
//!
//! Beside that a disk can fail on command ([`Trouble`]): reads, writes and syncs with `EIO`, writes
//! with `ENOSPC`, and syncs that take long. A file's sync that fails does what Linux does: it drops
//! some or all of the dirty pages, which are read as they were written until they are evicted
//! ([`Disk::evict`]), and which no later sync writes, however often it is tried and whoever tries it.
//! A sync of names that fails leaves them for the next one: a journal that can't be written makes the
//! file system read-only instead.
//!
//! A disk is unmounted when it is dropped, after panics too. If its process is killed, the mount
//! stays without anybody who answers, until `umount`.
//!
//! | file | what it does |
//! | --- | --- |
//! | `contents` | one file: its bytes, and what they were when it was synced |
//! | `names` | directories, and what they were when they were synced |
//! | `volume` | the file system: files and names together, and what goes wrong |
//! | `losses` | what is left of it after a power loss |
//! | `mount` | answers the kernel (Linux alone) |
//! | `disk` | what tests hold |

mod contents;
#[cfg(test)]
mod contents_tests;
mod disk;
mod losses;
#[cfg(target_os = "linux")]
mod mount;
mod names;
mod trouble;
mod volume;
#[cfg(test)]
mod volume_tests;

pub use contents::Guarantee;
pub use disk::Disk;
pub use losses::Losses;
pub use trouble::{Area, Trouble};
