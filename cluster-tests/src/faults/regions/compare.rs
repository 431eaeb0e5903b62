//! What regions hold at the end.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::harness::Bucket;
use crate::region::{Held, Holdings, World};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// How many differences are worth reading.
const SHOWN: usize = 10;

/// Waits until all regions hold the same of a bucket, byte by byte, and count it; what they hold.
///
/// # Errors
/// How they still differ after this time.
pub(super) async fn agree(
    world: &World,
    bucket: &Bucket,
    within: Duration,
) -> Result<Holdings, String> {
    let started = Instant::now();
    loop {
        match look(world, bucket).await {
            Err(why) if started.elapsed() >= within => {
                return Err(format!("after {within:?} regions don't agree: {why}"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(same) => return Ok(same),
        }
    }
}

async fn look(world: &World, bucket: &Bucket) -> Result<Holdings, String> {
    let regions = world.running_regions();
    let held = regions.iter().map(|region| world.holdings(*region, bucket));
    let held: Option<Vec<Holdings>> = join_all(held).await.into_iter().collect();
    let held = held.ok_or("a region can't be read")?;
    let names: Vec<&str> = regions
        .iter()
        .map(|region| world.names()[*region].as_str())
        .collect();
    let differences = differences(&names, &held);
    if !differences.is_empty() {
        let count = differences.len();
        let shown: Vec<String> = differences.into_iter().take(SHOWN).collect();
        return Err(format!("{count} keys differ: {}", shown.join("; ")));
    }
    let all = held.into_iter().next().unwrap_or_default();
    for seat in world.running() {
        let summary = counted(world, seat, bucket).await?;
        if summary != all.len() as u64 {
            let there = all.len();
            return Err(format!(
                "node {seat} counts {summary} keys where there are {there}"
            ));
        }
    }
    Ok(all)
}

/// How many keys a node says that there are.
async fn counted(world: &World, seat: usize, bucket: &Bucket) -> Result<u64, String> {
    let list = world.api(seat).get("/buckets").api_key(&bucket.account);
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

/// The keys of which regions don't hold the same.
fn differences(names: &[&str], held: &[Holdings]) -> Vec<String> {
    let mut keys: Vec<&String> = held.iter().flat_map(Holdings::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| {
        let first = held[0].get(*key);
        held.iter().any(|other| other.get(*key) != first)
    });
    let told = differing.map(|key| {
        let parts = names
            .iter()
            .zip(held)
            .map(|(name, held)| match held.get(key) {
                None => format!("{name} nothing"),
                Some(held) => format!("{name} {}", of(held)),
            });
        format!("{key}: {}", parts.collect::<Vec<_>>().join(", "))
    });
    told.collect()
}

fn of(held: &Held) -> String {
    let value = String::from_utf8_lossy(&held.value);
    let expires = held.expires.as_deref().unwrap_or("never");
    format!(
        "{} {value:?} ({}, expires {expires})",
        held.etag, held.content_type
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(change: impl FnOnce(&mut Held)) -> Holdings {
        let mut held = Held {
            etag: "\"1-1\"".into(),
            content_type: "text/plain".into(),
            expires: None,
            value: b"v".to_vec(),
        };
        change(&mut held);
        Holdings::from([("k".to_owned(), held)])
    }

    #[test]
    fn any_difference_is_found() {
        let names = ["eu", "us"];
        let same = held(|_| {});
        let none = differences(&names, &[same.clone(), same.clone()]);
        assert_eq!(none, Vec::<String>::new());
        for other in [
            Holdings::new(),
            held(|held| held.value = b"w".to_vec()),
            held(|held| held.etag = "\"2-1\"".into()),
            held(|held| held.content_type = "text/html".into()),
            held(|held| held.expires = Some("soon".into())),
        ] {
            for held in [[same.clone(), other.clone()], [other, same.clone()]] {
                let found = differences(&names, &held);
                assert_eq!(found.len(), 1, "{held:?}");
                assert!(found[0].starts_with("k: eu "), "{found:?}");
            }
        }
    }
}
