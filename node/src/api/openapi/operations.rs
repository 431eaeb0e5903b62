//! All operations.

use utoipa::openapi::OpenApi;

use super::document::Document;
use super::{batches, buckets, keys, lists, service, streams};

/// Describes all operations.
pub(super) fn describe() -> OpenApi {
    let mut document = Document::default();
    keys::describe(&mut document);
    lists::describe(&mut document);
    batches::describe(&mut document);
    buckets::describe(&mut document);
    streams::describe(&mut document);
    service::describe(&mut document);
    document.build()
}
