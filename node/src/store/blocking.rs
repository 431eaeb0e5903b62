//! What waits for the disk, kept off the runtime's other tasks.

use rocksdb::DB;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs what waits for the disk without holding up the runtime's other tasks.
pub fn blocking<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        Ok(_) | Err(_) => wait(),
    }
}

/// Whether a write would be slowed down or stopped, since flushes or compactions lag.
pub(super) fn is_stalling(db: &DB) -> bool {
    [
        c"rocksdb.is-write-stopped",
        c"rocksdb.actual-delayed-write-rate",
    ]
    .into_iter()
    .any(|property| !matches!(db.property_int_value(property), Ok(None | Some(0))))
}
