//! Contents of a bucket in each region, as its users see them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use super::multi_region::MultiRegionCluster;
use crate::{ApiClient, Bucket, eventually};

/// Time for regions to converge after all links are healed.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 16;

/// Number of names in one page of a listing: the maximum.
const PAGE_KEYS: usize = 1000;

/// A live key: all that users see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveKey {
    /// Version.
    pub etag: String,
    /// Content type.
    pub content_type: String,
    /// Time of expiry, if there is one.
    pub expires: Option<String>,
    /// Metadata, if there is any.
    pub metadata: Option<String>,
    /// Value.
    pub value: Vec<u8>,
}

/// All live keys of a bucket.
pub type BucketContents = BTreeMap<String, LiveKey>;

/// All live keys of a bucket, with version and value only.
pub type BucketValues = BTreeMap<String, (String, Vec<u8>)>;

impl MultiRegionCluster {
    /// Reads all live keys of a bucket through one of the region's nodes; `None` if a read fails.
    pub async fn bucket_contents(&self, region: usize, bucket: &Bucket) -> Option<BucketContents> {
        let api = self.api(self.any_running(region)?);
        let mut all = BucketContents::new();
        let mut next = Some(ListPosition::After(String::new()));
        while let Some(position) = next {
            let names;
            (names, next) = list_page(&api, bucket, &position).await?;
            let read = names.into_iter().map(|name| read_key(&api, bucket, name));
            let mut read = stream::iter(read).buffer_unordered(MAX_CONCURRENT_READS);
            while let Some(read) = read.next().await {
                all.extend(read?);
            }
        }
        Some(all)
    }

    /// Like [`MultiRegionCluster::bucket_contents`], with version and value only.
    pub async fn bucket_values(&self, region: usize, bucket: &Bucket) -> Option<BucketValues> {
        let all = self.bucket_contents(region, bucket).await?.into_iter();
        Some(
            all.map(|(name, key)| (name, (key.etag, key.value)))
                .collect(),
        )
    }

    /// Waits until all regions have the same contents of a bucket, byte by byte and version by
    /// version, and count the same; returns them.
    pub async fn wait_bucket_converged(&self, bucket: &Bucket) -> BucketValues {
        let regions = self.running_regions();
        eventually(
            "all regions hold the same",
            CONVERGENCE_TIMEOUT,
            async || {
                let all = regions
                    .iter()
                    .map(|region| self.bucket_values(*region, bucket));
                let all = join_all(all).await;
                let first = all.first()?.clone()?;
                let are_equal = all.iter().all(|other| other.as_ref() == Some(&first));
                if !are_equal {
                    return None;
                }
                for region in &regions {
                    let seat = self.any_running(*region)?;
                    let summary = self.api(seat).try_bucket_summary(bucket).await?;
                    if summary["estimated_keys"] != first.len() {
                        return None;
                    }
                }
                Some(first)
            },
        )
        .await
    }
}

/// Position at which a list goes on.
enum ListPosition {
    Cursor(String),
    /// Behind this key: for nodes of release 0.1, which return no cursor.
    After(String),
}

/// Returns names of a bucket, and the position at which more follow.
async fn list_page(
    api: &ApiClient,
    bucket: &Bucket,
    position: &ListPosition,
) -> Option<(Vec<String>, Option<ListPosition>)> {
    let parameter = match position {
        ListPosition::Cursor(cursor) => ("cursor", cursor.as_str()),
        ListPosition::After(name) => ("after", name.as_str()),
    };
    let page = api.get(&bucket.listing_path()).query(&[parameter]);
    let page = page.header("accept", "application/json").try_send().await;
    let page = page.ok()?;
    match page.status {
        200 => {}
        404 => return Some((vec![], None)),
        _ => return None,
    }
    let json = page.json();
    let names = json["keys"].as_array()?.iter();
    let names = names.map(|key| key["name"].as_str().map(str::to_owned));
    let names = names.collect::<Option<Vec<String>>>()?;
    let next = match (json["list_complete"].as_bool(), json["cursor"].as_str()) {
        (Some(true), _) => None,
        (_, Some(cursor)) => Some(ListPosition::Cursor(cursor.to_owned())),
        (_, None) => {
            let is_full = names.len() >= PAGE_KEYS;
            let last = names.last().filter(|_| is_full);
            last.cloned().map(ListPosition::After)
        }
    };
    Some((names, next))
}

/// Reads a key; `Some(None)` if it doesn't exist any more.
async fn read_key(
    api: &ApiClient,
    bucket: &Bucket,
    name: String,
) -> Option<Option<(String, LiveKey)>> {
    let response = api.get(&bucket.key_path(&name)).try_send().await.ok()?;
    match response.status {
        200 => {}
        404 => return Some(None),
        _ => return None,
    }
    let key = LiveKey {
        etag: response.etag(),
        content_type: response.header("content-type").to_owned(),
        expires: response.find_header("expires").map(str::to_owned),
        metadata: response
            .find_header("x-cloudkv-metadata")
            .map(str::to_owned),
        value: response.body.to_vec(),
    };
    Some(Some((name, key)))
}
