//! Place of backups: a folder, or a bucket of an S3-compatible store.
//!
//! Files are written as a whole: a reader, or a crash, sees all of a file or nothing of it. What a
//! call has written is durable when it returns.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, ObjectStore, PutOptions, PutPayload, RetryConfig};

use super::error::BackupError;
use super::format::{MAX_FILE_BYTES, parse_id};
use super::location::{Location, trimmed};
use super::s3_client::S3Connector;

/// Maximum number of retries of a request to an S3 store; the time is the bound that matters.
const MAX_RETRIES: usize = 50;
/// Time after which a request to an S3 store that has failed isn't repeated any more.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time between two attempts.
const MAX_RETRY_BACKOFF: Duration = Duration::from_secs(5);
/// Region of an S3 store if the environment names none.
const DEFAULT_S3_REGION: &str = "us-east-1";

/// Place of backups.
#[derive(Clone)]
pub(crate) struct BackupTarget {
    store: Arc<dyn ObjectStore>,
    /// Folder of the backups within the store.
    base: Path,
    url: String,
}

/// Reads a variable of the environment; an empty one counts as none.
type Variables<'a> = &'a dyn Fn(&'static str) -> Option<String>;

impl BackupTarget {
    /// Opens the place that `url` names: `file:///FOLDER` or `s3://BUCKET/FOLDER`. Credentials,
    /// region and endpoint of a store come from the environment of this process. Nothing is read
    /// or written yet.
    pub(crate) fn open(url: &str) -> Result<Self, BackupError> {
        let variable =
            |name: &'static str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::open_with(url, &variable)
    }

    fn open_with(url: &str, variable: Variables<'_>) -> Result<Self, BackupError> {
        let location = Location::parse(url)?;
        let url = trimmed(url).to_owned();
        let failed = |source| BackupError::of_store("open", url.clone(), source);
        let (store, base): (Arc<dyn ObjectStore>, Path) = match location {
            Location::Folder(path) => {
                let base = Path::from_absolute_path(&path).map_err(|error| failed(error.into()))?;
                (Arc::new(LocalFileSystem::new().with_fsync(true)), base)
            }
            Location::Bucket { name, path } => {
                let store = s3_builder(&url, variable)?.with_bucket_name(name).build();
                (Arc::new(store.map_err(failed)?), path)
            }
        };
        Ok(Self { store, base, url })
    }

    /// URL of the place, without a slash at its end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lists the IDs of all backups, complete or not, in ascending order: the oldest first. A
    /// folder that doesn't exist has none.
    pub(crate) async fn list(&self) -> Result<Vec<String>, BackupError> {
        let listed = self.store.list_with_delimiter(Some(&self.base)).await;
        let failed = |source| BackupError::of_store("list", self.url.clone(), source);
        let folders = listed.map_err(failed)?.common_prefixes;
        let names = folders.iter().filter_map(|folder| folder.filename());
        let mut ids: Vec<String> = names
            .filter(|name| parse_id(name).is_some())
            .map(ToOwned::to_owned)
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Writes the file `name` of backup `id`, in place of the one that is there.
    pub(crate) async fn put(&self, id: &str, name: &str, bytes: Bytes) -> Result<(), BackupError> {
        let path = self.path(id, name);
        let payload = PutPayload::from(bytes);
        let put = self.store.put_opts(&path, payload, PutOptions::default());
        match put.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("write", id, name, error)),
        }
    }

    /// Reads the file `name` of backup `id`, which must be there.
    pub(crate) async fn get(&self, id: &str, name: &str) -> Result<Bytes, BackupError> {
        let found = self.find(id, name).await?;
        found.ok_or_else(|| BackupError::Missing {
            name: name.to_owned(),
        })
    }

    /// Reads the file `name` of backup `id`, if there is one.
    pub(crate) async fn find(&self, id: &str, name: &str) -> Result<Option<Bytes>, BackupError> {
        let path = self.path(id, name);
        let found = match self.store.get_opts(&path, GetOptions::default()).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| self.failed("read", id, name, error))?,
        };
        let size = found.meta.size;
        if size > MAX_FILE_BYTES as u64 {
            return Err(BackupError::Damaged {
                name: name.to_owned(),
                why: format!(
                    "it has {size} bytes, and no such file has more than {MAX_FILE_BYTES}"
                ),
            });
        }
        let bytes = found.bytes().await;
        let bytes = bytes.map_err(|error| self.failed("read", id, name, error))?;
        Ok(Some(bytes))
    }

    /// Lists the files in a folder of backup `id`, as paths within the backup, in ascending order.
    pub(crate) async fn names(&self, id: &str, dir: &str) -> Result<Vec<String>, BackupError> {
        let folder = self.path(id, dir);
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| self.failed("list", id, dir, error))?;
        let files = listed.objects.iter();
        let names = files.filter_map(|file| file.location.filename());
        let mut names: Vec<String> = names.map(|name| format!("{dir}/{name}")).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes the file `name` of backup `id`, if there is one. After a crash it may be there
    /// again.
    pub(crate) async fn delete(&self, id: &str, name: &str) -> Result<(), BackupError> {
        let path = self.path(id, name);
        let paths = stream::once(async move { Ok(path) }).boxed();
        match self
            .store
            .delete_stream(paths)
            .try_collect::<Vec<_>>()
            .await
        {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", id, name, error)),
        }
    }

    /// Path of a file within the store. Segments of dots are encoded, so none lies outside.
    fn path(&self, id: &str, name: &str) -> Path {
        let segments = std::iter::once(id).chain(name.split('/'));
        let segments = segments.filter(|segment| !segment.is_empty());
        segments.fold(self.base.clone(), |path, segment| path.join(segment))
    }

    fn failed(
        &self,
        action: &'static str,
        id: &str,
        name: &str,
        error: object_store::Error,
    ) -> BackupError {
        BackupError::of_store(action, format!("{}/{id}/{name}", self.url), error)
    }
}

impl fmt::Debug for BackupTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackupTarget").field(&self.url).finish()
    }
}

/// Prepares a client of the store that the environment describes.
fn s3_builder(url: &str, variable: Variables<'_>) -> Result<AmazonS3Builder, BackupError> {
    let wrong = |variable, why| BackupError::Credentials {
        url: url.to_owned(),
        variable,
        why,
    };
    let required = |name| variable(name).ok_or_else(|| wrong(name, "isn't set"));
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let endpoint = variable("AWS_ENDPOINT_URL");
    let scheme = endpoint.as_deref().and_then(|it| it.split_once("://"));
    let is_plain = match (&endpoint, scheme) {
        (None, _) | (Some(_), Some(("https", _))) => false,
        (Some(_), Some(("http", _))) => true,
        (Some(_), _) => return Err(wrong("AWS_ENDPOINT_URL", "is no http:// or https:// URL")),
    };
    let mut builder = AmazonS3Builder::new()
        .with_region(region.as_deref().unwrap_or(DEFAULT_S3_REGION))
        .with_access_key_id(required("AWS_ACCESS_KEY_ID")?)
        .with_secret_access_key(required("AWS_SECRET_ACCESS_KEY")?)
        .with_allow_http(is_plain)
        // Not all stores that are compatible with S3 have it.
        .with_disable_bulk_delete(true)
        .with_retry(retries())
        .with_http_connector(S3Connector { is_plain });
    if let Some(token) = variable("AWS_SESSION_TOKEN") {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(builder)
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            max_backoff: MAX_RETRY_BACKOFF,
            ..BackoffConfig::default()
        },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
