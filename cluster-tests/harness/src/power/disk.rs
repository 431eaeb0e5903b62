//! The handle by which tests control a disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data_loss::DataLoss;
use super::disk_faults::DiskFaults;
use super::file_contents::LossExtent;
use super::shared_volume::SharedVolume;

/// A mounted disk; unmounted on drop.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<SharedVolume>,
    mount_point: PathBuf,
    #[cfg(target_os = "linux")]
    session: Option<fuser::BackgroundSession>,
}

impl Disk {
    /// Returns whether this machine can mount a disk: tries it, and prints a line if it can't.
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

    /// Creates an empty disk and mounts it at `at`; it stores its bytes in `host`. Creates both
    /// folders.
    #[cfg(target_os = "linux")]
    pub fn mount(at: &Path, host: &Path) -> io::Result<Self> {
        fs::create_dir_all(at)?;
        fs::create_dir_all(host)?;
        let shared = Arc::new(SharedVolume::new(host.to_owned()));
        let session = super::fuse_server::mount(&shared, at)?;
        Ok(Self {
            shared,
            mount_point: at.to_owned(),
            session: Some(session),
        })
    }

    /// Fails: this system can't mount a disk.
    #[cfg(not(target_os = "linux"))]
    pub fn mount(_at: &Path, _host: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the disk's faults from here on.
    pub fn set_faults(&self, trouble: DiskFaults) {
        self.shared.lock().set_faults(trouble);
        self.shared.state_changed.notify_all();
    }

    /// Aborts syncs that are under way: they make nothing durable. To be called between SIGKILL and
    /// waiting for the process, which exits only after its syncs.
    pub fn interrupt(&self) {
        self.shared.lock().interrupts += 1;
        self.shared.state_changed.notify_all();
    }

    /// Turns the power off: every call fails until [`Disk::power_on`]. To be called between SIGKILL
    /// and waiting for the process.
    pub fn power_off(&self) {
        self.shared.lock().is_off = true;
        self.interrupt();
    }

    /// Turns the power on: `seed` decides what is left of what wasn't synced.
    pub fn power_on(&self, seed: u64) -> io::Result<DataLoss> {
        self.shared.lock().apply_power_loss(seed)
    }

    /// Turns the power on; everything is lost that wasn't synced.
    pub fn power_on_losing_all(&self) -> io::Result<DataLoss> {
        self.shared
            .lock()
            .apply_power_loss_of(LossExtent::Everything, 0)
    }

    /// Evicts the kernel's pages: what failed syncs have dropped is read as it was before. To be
    /// called while no process has files open.
    pub fn evict(&self) -> io::Result<()> {
        self.shared.lock().evict()
    }

    /// Returns whether a process waits for a slow sync, whose data is already written.
    pub fn is_syncing(&self) -> bool {
        self.shared.lock().waiting_syncs > 0
    }

    /// Copies the visible files to another folder.
    pub fn export(&self, to: &Path) -> io::Result<()> {
        let files = self.shared.lock().file_paths();
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
        // Waiting calls get an error, so that the session can end.
        self.power_off();
        #[cfg(target_os = "linux")]
        {
            drop(self.session.take());
            // A process may still have a file open: a lazy unmount waits for it.
            let _ = rustix::mount::unmount(&self.mount_point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
