//! Contents of a bucket in one region, as its users see them.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};

use super::world::World;
use crate::harness::{Api, Bucket};

/// Maximum number of concurrent reads.
const PARALLEL: usize = 16;

/// Number of names in one page of a listing: the maximum.
const PAGE: usize = 1000;

/// A live key: all that users see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
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
pub type Holdings = BTreeMap<String, Held>;

/// All live keys of a bucket, with version and value only.
pub type Contents = BTreeMap<String, (String, Vec<u8>)>;

impl World {
    /// Reads all live keys of a bucket through one of the region's nodes; `None` if a read fails.
    pub async fn holdings(&self, region: usize, bucket: &Bucket) -> Option<Holdings> {
        let api = self.api(self.teller(region)?);
        let mut all = Holdings::new();
        let mut after = String::new();
        loop {
            let Some(names) = names(&api, bucket, &after).await? else {
                return Some(all);
            };
            after = names.last()?.clone();
            let last = names.len() < PAGE;
            let read = names.into_iter().map(|name| read(&api, bucket, name));
            let mut read = stream::iter(read).buffer_unordered(PARALLEL);
            while let Some(read) = read.next().await {
                all.extend(read?);
            }
            if last {
                return Some(all);
            }
        }
    }

    /// Like [`MultiRegionCluster::bucket_contents`], with version and value only.
    pub async fn contents(&self, region: usize, bucket: &Bucket) -> Option<Contents> {
        let all = self.holdings(region, bucket).await?.into_iter();
        Some(
            all.map(|(name, key)| (name, (key.etag, key.value)))
                .collect(),
        )
    }
}

/// Returns the next names of a bucket; `Some(None)` if there are no more.
async fn names(api: &Api, bucket: &Bucket, after: &str) -> Option<Option<Vec<String>>> {
    let page = api.get(&bucket.keys()).query(&[("after", after)]);
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
async fn read(api: &Api, bucket: &Bucket, name: String) -> Option<Option<(String, Held)>> {
    let response = api.get(&bucket.key(&name)).try_send().await.ok()?;
    match response.status {
        200 => {}
        404 => return Some(None),
        _ => return None,
    }
    let key = Held {
        etag: response.etag(),
        content_type: response.header("content-type").to_owned(),
        expires: response.find_header("expires").map(str::to_owned),
        value: response.body.to_vec(),
    };
    Some(Some((name, key)))
}
