//! All that a region holds of a bucket, as its users see it.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};

use super::world::World;
use crate::harness::{Api, Bucket};

/// Values that are read at once.
const PARALLEL: usize = 16;

/// Names that are listed at once: the most that a list has.
const PAGE: usize = 1000;

/// A live key: all that its users see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub etag: String,
    /// The type of its value.
    pub content_type: String,
    /// When it expires, if it does.
    pub expires: Option<String>,
    /// The value.
    pub value: Vec<u8>,
}

/// All live keys of a bucket.
pub type Holdings = BTreeMap<String, Held>;

/// All live keys of a bucket: version and value.
pub type Contents = BTreeMap<String, (String, Vec<u8>)>;

impl World {
    /// All that a region holds of a bucket, through one of its nodes; `None`: it doesn't say.
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

    /// The same in short.
    pub async fn contents(&self, region: usize, bucket: &Bucket) -> Option<Contents> {
        let all = self.holdings(region, bucket).await?.into_iter();
        Some(
            all.map(|(name, held)| (name, (held.etag, held.value)))
                .collect(),
        )
    }
}

/// The next names of a bucket; `Some(None)`: there are no more.
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

/// What a key holds; `Some(None)`: nothing any more.
async fn read(api: &Api, bucket: &Bucket, name: String) -> Option<Option<(String, Held)>> {
    let got = api.get(&bucket.key(&name)).try_send().await.ok()?;
    match got.status {
        200 => {}
        404 => return Some(None),
        _ => return None,
    }
    let held = Held {
        etag: got.etag(),
        content_type: got.header("content-type").to_owned(),
        expires: got.find_header("expires").map(str::to_owned),
        value: got.body.to_vec(),
    };
    Some(Some((name, held)))
}
