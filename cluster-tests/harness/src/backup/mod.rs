//! Backups and restores by the product's commands, and what is in buckets before and after.

mod commands;
mod contents;
mod folder;

pub use commands::{
    CompletedBackup, back_up, backup_command, list_backups, list_command, restore, restore_command,
    start_restored,
};
pub use contents::{
    KeyCopies, SavedBucket, assert_same_keys, copy_keys, fill_buckets, version_time,
};
pub use folder::BackupFolder;
