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
        let mut after = String::new();
        loop {
            let Some(names) = list_page(&api, bucket, &after).await? else {
                return Some(all);
            };
            after = names.last()?.clone();
            let last = names.len() < PAGE_KEYS;
            let read = names.into_iter().map(|name| read_key(&api, bucket, name));
            let mut read = stream::iter(read).buffer_unordered(MAX_CONCURRENT_READS);
            while let Some(read) = read.next().await {
                all.extend(read?);
            }
            if last {
                return Some(all);
            }
        }
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

/// Returns the next names of a bucket; `Some(None)` if there are no more.
async fn list_page(api: &ApiClient, bucket: &Bucket, after: &str) -> Option<Option<Vec<String>>> {
    let page = api.get(&bucket.listing_path()).query(&[("after", after)]);
    let page = page.header("accept", "application/json").try_send().await;
    let page = page.ok()?;
    match page.status {
        200 => {}
        404 => return Some(None),
        _ => return None,
    }
    let json = page.json();
    let names = json["keys"].as_array()?.iter();
    let names = names.map(|key| key["name"].as_str().map(str::to_owned));
    names.collect::<Option<Vec<String>>>().map(Some)
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
        value: response.body.to_vec(),
    };
    Some(Some((name, key)))
}
