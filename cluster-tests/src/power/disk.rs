//! What tests hold of a disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::contents::Loss;
use super::losses::Losses;
use super::trouble::Trouble;
use super::volume::Volume;

/// A disk and those who wait for its syncs.
#[derive(Debug)]
pub(super) struct Shared {
    volume: Mutex<Volume>,
    /// What slow syncs wait for may have changed.
    pub changed: Condvar,
}

impl Shared {
    /// A panic of one call is seen where it happened; the others go on.
    pub fn lock(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that is mounted, until it is dropped.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    at: PathBuf,
    #[cfg(target_os = "linux")]
    session: Option<fuser::BackgroundSession>,
}

impl Disk {
    /// Whether this machine can mount one: tries it, and says in a line why it can't.
    pub fn is_supported() -> bool {
        let mounted = tempfile::tempdir().and_then(|dir| {
            let disk = Self::mount(&dir.path().join("data"), &dir.path().join("host"))?;
            drop(disk);
            Ok(())
        });
        if let Err(error) = &mounted {
            println!("skipped: a disk that loses power needs Linux with /dev/fuse: {error}");
        }
        mounted.is_ok()
    }

    /// Mounts an empty disk at `at`, which is made; it keeps its bytes in `host`, which is made,
    /// too.
    #[cfg(target_os = "linux")]
    pub fn mount(at: &Path, host: &Path) -> io::Result<Self> {
        fs::create_dir_all(at)?;
        fs::create_dir_all(host)?;
        let shared = Arc::new(Shared {
            volume: Mutex::new(Volume::new(host.to_owned())),
            changed: Condvar::new(),
        });
        let session = super::mount::mount(&shared, at)?;
        Ok(Self {
            shared,
            at: at.to_owned(),
            session: Some(session),
        })
    }

    /// Mounts an empty disk: not on this system.
    #[cfg(not(target_os = "linux"))]
    pub fn mount(_at: &Path, _host: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// From here on this goes wrong, until it is said otherwise.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.shared.lock().set_trouble(trouble);
        self.shared.changed.notify_all();
    }

    /// Gives up syncs that are under way: nothing becomes durable by them. To be called between
    /// SIGKILL and waiting for the process, which ends only when its syncs have.
    pub fn interrupt(&self) {
        self.shared.lock().interrupts += 1;
        self.shared.changed.notify_all();
    }

    /// The power is gone: every call fails until [`Disk::cut`]. To be called between SIGKILL and
    /// waiting for the process.
    pub fn power_off(&self) {
        self.shared.lock().is_off = true;
        self.interrupt();
    }

    /// The power is back: `seed` decides what is left of what wasn't synced.
    pub fn cut(&self, seed: u64) -> io::Result<Losses> {
        self.shared.lock().cut(seed)
    }

    /// The power is back, and all is lost that wasn't synced.
    pub fn cut_hard(&self) -> io::Result<Losses> {
        self.shared.lock().cut_with(Loss::Everything, 0)
    }

    /// The kernel forgets what it has of files in its memory: what failed syncs have dropped is read
    /// as it was before. To be called while no process has files open.
    pub fn evict(&self) -> io::Result<()> {
        self.shared.lock().evict()
    }

    /// Whether a process waits for a sync that takes long: what it syncs is written.
    pub fn is_syncing(&self) -> bool {
        self.shared.lock().waiting > 0
    }

    /// Copies what processes see to another folder.
    pub fn export(&self, to: &Path) -> io::Result<()> {
        let files = self.shared.lock().files();
        for (path, bytes) in files {
            let copy = to.join(path);
            if let Some(folder) = copy.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(bytes, copy)?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still waits gets an error, so that the session can end.
        self.power_off();
        #[cfg(target_os = "linux")]
        {
            drop(self.session.take());
            // Somebody may have a file open still: then it goes with that.
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
