//! Convergence check: compares the contents of regions at the end of a run.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::{BucketContents, LiveKey, MultiRegionCluster};

/// Time between two comparisons.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of differences in an error text.
const MAX_DIFFERENCES: usize = 10;

/// Waits until all regions have the same live keys in a bucket, byte by byte, and count them;
/// returns the keys.
///
/// # Errors
/// Returns the remaining differences once the time is over.
pub(super) async fn wait_for_convergence(
    cluster: &MultiRegionCluster,
    bucket: &Bucket,
    limit: Duration,
) -> Result<BucketContents, String> {
    let started = Instant::now();
    loop {
        match compare_regions(cluster, bucket).await {
            Err(difference) if started.elapsed() >= limit => {
                return Err(format!("after {limit:?} regions don't agree: {difference}"));
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            Ok(contents) => return Ok(contents),
        }
    }
}

async fn compare_regions(
    cluster: &MultiRegionCluster,
    bucket: &Bucket,
) -> Result<BucketContents, String> {
    let regions = cluster.running_regions();
    let contents = regions
        .iter()
        .map(|region| cluster.bucket_contents(*region, bucket));
    let contents: Option<Vec<BucketContents>> = join_all(contents).await.into_iter().collect();
    let contents = contents.ok_or("a region can't be read")?;
    let names: Vec<&str> = regions
        .iter()
        .map(|region| cluster.names()[*region].as_str())
        .collect();
    let differences = differences(&names, &contents);
    if !differences.is_empty() {
        let count = differences.len();
        let shown: Vec<String> = differences.into_iter().take(MAX_DIFFERENCES).collect();
        return Err(format!("{count} keys differ: {}", shown.join("; ")));
    }
    let first = contents.into_iter().next().unwrap_or_default();
    for seat in cluster.running() {
        let counted = counted_keys(cluster, seat, bucket).await?;
        if counted != first.len() as u64 {
            let key_count = first.len();
            return Err(format!(
                "node {seat} counts {counted} keys where there are {key_count}"
            ));
        }
    }
    Ok(first)
}

/// Returns a node's number of keys, as listed for the account.
async fn counted_keys(
    cluster: &MultiRegionCluster,
    seat: usize,
    bucket: &Bucket,
) -> Result<u64, String> {
    let list = cluster.api(seat).get("/buckets").api_key(&bucket.account);
    let list = list.try_send().await.map_err(|error| error.to_string())?;
    if list.status != 200 {
        return Err(format!("node {seat} lists no buckets: {list:?}"));
    }
    let json = list.json();
    let mut buckets = json["buckets"].as_array().into_iter().flatten();
    let listed = buckets.find(|it| it["id"] == bucket.id.as_str());
    let count = listed.and_then(|it| it["estimated_keys"].as_u64());
    count.ok_or(format!("node {seat} doesn't list the bucket"))
}

/// Describes the keys that differ between regions.
fn differences(names: &[&str], contents: &[BucketContents]) -> Vec<String> {
    let mut keys: Vec<&String> = contents.iter().flat_map(BucketContents::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| {
        let first = contents[0].get(*key);
        contents.iter().any(|other| other.get(*key) != first)
    });
    let descriptions = differing.map(|key| {
        let values = names
            .iter()
            .zip(contents)
            .map(|(name, contents)| match contents.get(key) {
                None => format!("{name} nothing"),
                Some(contents) => format!("{name} {}", describe_key(contents)),
            });
        format!("{key}: {}", values.collect::<Vec<_>>().join(", "))
    });
    descriptions.collect()
}

fn describe_key(live_key: &LiveKey) -> String {
    let value = String::from_utf8_lossy(&live_key.value);
    let expires = live_key.expires.as_deref().unwrap_or("never");
    let metadata = live_key.metadata.as_deref().unwrap_or("none");
    format!(
        "{} {value:?} ({}, expires {expires}, metadata {metadata})",
        live_key.etag, live_key.content_type
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents_of(change: impl FnOnce(&mut LiveKey)) -> BucketContents {
        let mut key = LiveKey {
            etag: "\"1-1\"".into(),
            content_type: "text/plain".into(),
            expires: None,
            metadata: None,
            value: b"v".to_vec(),
        };
        change(&mut key);
        BucketContents::from([("k".to_owned(), key)])
    }

    #[test]
    fn any_difference_is_found() {
        let names = ["eu", "us"];
        let same = contents_of(|_| {});
        let none = differences(&names, &[same.clone(), same.clone()]);
        assert_eq!(none, Vec::<String>::new());
        for other in [
            BucketContents::new(),
            contents_of(|key| key.value = b"w".to_vec()),
            contents_of(|key| key.etag = "\"2-1\"".into()),
            contents_of(|key| key.content_type = "text/html".into()),
            contents_of(|key| key.expires = Some("soon".into())),
            contents_of(|key| key.metadata = Some("{}".into())),
        ] {
            for contents in [[same.clone(), other.clone()], [other, same.clone()]] {
                let reported = differences(&names, &contents);
                assert_eq!(reported.len(), 1, "{contents:?}");
                assert!(reported[0].starts_with("k: eu "), "{reported:?}");
            }
        }
    }
}
