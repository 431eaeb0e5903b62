//! Everything on `/buckets`: creates, lists, modifies and deletes buckets, exports and imports
//! their keys.
//!
//! These requests are rare, so they are plain axum handlers: extractors authenticate the client
//! ([`extract`]), parameters come in any of several formats ([`params`], [`forms`]), and each
//! handler, but those of exports and imports, is one call to the service's `Directory`.

mod creation_limiter;
mod export;
mod export_line;
mod extract;
mod forms;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handlers;
mod import;
mod list;
mod params;
mod state;
mod transfer_permits;

pub(crate) use self::creation_limiter::CreationSettings;
pub(crate) use self::creation_limiter::{CreationLimitExceeded, CreationLimiter, RequestSource};
pub(crate) use self::export::{EXPORT_PARAMETERS, export};
pub(crate) use self::export_line::{
    ExportEndLine, ExportErrorLine, ExportLine, write_deletion, write_key,
};
pub(crate) use self::extract::CONFIRM_PARAMETER;
pub(crate) use self::handlers::{CreatedBucketBody, create, delete, modify};
pub(crate) use self::import::{
    EndLine as ImportEndLine, FileImport, FileImportError, FileImportReport, IMPORT_PARAMETERS,
    ImportMode, KnownLines, ProgressLine as ImportProgressLine, import,
};
pub(crate) use self::list::{BucketList, PARAMETERS as LIST_PARAMETERS, list};
pub(crate) use self::params::BucketParams;
pub(crate) use self::state::BucketsState;
pub(crate) use self::transfer_permits::TransferPermits;
