//! A volume that the handle of tests and the server of the kernel's calls share.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::volume::Volume;

/// A volume, and a signal for its waiting syncs.
#[derive(Debug)]
pub(super) struct SharedVolume {
    volume: Mutex<Volume>,
    /// Notified when the state that slow syncs wait for may have changed.
    pub state_changed: Condvar,
}

impl SharedVolume {
    /// Creates an empty volume that stores its bytes in the folder `host`.
    pub(super) fn new(host: PathBuf) -> Self {
        Self {
            volume: Mutex::new(Volume::new(host)),
            state_changed: Condvar::new(),
        }
    }

    /// Locks the volume. A poisoned lock is ignored: the panic is reported where it happened.
    pub(super) fn lock(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
