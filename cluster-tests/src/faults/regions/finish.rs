//! Checks after the last fault of a run over several regions.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::compare::agree;
use super::doomed::{self, Doomed};
use super::field::Field;
use super::judge::{self, Last};
use super::load::Ended;
use crate::faults::ledger::KeyName;
use crate::faults::version::Version;
use crate::harness::{Bucket, eventually};
use crate::region::{Held, Holdings, World};

/// Time for regions to converge.
const AGREE_WITHIN: Duration = Duration::from_secs(120);

/// Time for tombstones to be removed once nothing is written any more.
const EMPTY_WITHIN: Duration = Duration::from_secs(120);

/// Notes and failures.
type Found = (Vec<String>, Vec<String>);

/// Runs all checks that are only possible at the end.
///
/// # Panics
/// Panics if regions don't serve, don't converge, or keep what was deleted.
pub(super) async fn check(
    cluster: &mut World,
    context: &Field,
    ended: &mut Ended,
    deleted: &[Doomed],
    own: Vec<Bucket>,
    report: impl Fn(&str),
) -> Found {
    report("waiting until all nodes serve");
    for region in cluster.running_regions() {
        cluster.wait_serving(region).await;
    }
    report("checking the histories that are left, and reading all keys again");
    for checker in &mut ended.settlers {
        checker.finish().await;
    }
    ended.directory.finish().await;
    report("comparing the regions");
    let mut failures = vec![];
    let mut compared = 0;
    let mut contents = HashMap::new();
    for bucket in context.buckets() {
        match agree(cluster, &bucket, AGREE_WITHIN).await {
            Ok(all) => {
                compared += all.len();
                contents.insert(bucket.id.clone(), all);
            }
            Err(reason) => {
                report(&reason);
                failures.push(reason);
            }
        }
    }
    let common = contents.get(&context.common.bucket.id);
    if let Some(common) = common {
        failures.extend(judge_shared(context, common));
    }
    report("admin verify");
    let output = cluster.insist(0, &["verify"]).await;
    if !output.contains("equal") || output.contains("different") {
        failures.push(format!("admin verify: {output}"));
    }
    cluster.wait_nothing_held().await;
    cluster.wait_converged().await;
    for deleted in deleted {
        deleted.wait_gone(cluster).await;
    }
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut notes = vec![
        format!(
            "visits of keys in all regions that were judged: {}",
            read(&context.judged)
        ),
        format!(
            "reads with a session token: {} answered, {} refused",
            read(&context.with_token),
            read(&context.refused)
        ),
        format!("keys compared at the end, byte by byte: {compared}"),
    ];
    if read(&context.with_token) == 0 {
        failures.push("no read with a session token was answered".into());
    }
    if failures.is_empty() {
        report("deleting all, and waiting until nothing is left");
        empty(cluster, context, own).await;
        notes.push("nothing is left of what was deleted in any replica".into());
    }
    (notes, failures)
}

/// Checks all shared keys, with their final state.
fn judge_shared(context: &Field, contents: &Holdings) -> Vec<String> {
    let now = context.now();
    let mut keys = context.take_visits();
    let unwritten = contents.keys().filter(|name| {
        let is_known = keys.keys().any(|key| key.to_string() == **name);
        !is_known
    });
    let mut failures: Vec<String> = unwritten
        .map(|name| format!("nobody ever wrote {name}"))
        .collect();
    let mut checked = 0;
    for (key, calls) in keys.drain() {
        checked += calls.len() as u64;
        let last = match contents.get(&key.to_string()).map(last_of) {
            None => None,
            Some(Some(last)) => Some(last),
            Some(None) => {
                failures.push(format!("{key} holds what no client wrote"));
                continue;
            }
        };
        if let Err(reason) = judge_key(context, key, &calls, last, now) {
            failures.push(reason);
        }
    }
    context.judged.fetch_add(checked, Ordering::Relaxed);
    failures
}

fn judge_key(
    context: &Field,
    key: KeyName,
    calls: &[super::visit::Visit],
    last: Last,
    now: u64,
) -> Result<(), String> {
    judge::judge(calls, context.origin, Some((last, now)))
        .map_err(|reason| format!("shared {key}: {reason}\n{}", judge::history(calls)))
}

fn last_of(live_key: &Held) -> Option<(Version, u64)> {
    let value: u64 = std::str::from_utf8(&live_key.value).ok()?.parse().ok()?;
    let is_right_type = live_key.content_type == format!("text/x{}", value % 5);
    let version = Version::of_etag(&live_key.etag)?;
    is_right_type.then_some((version, value))
}

/// Deletes all buckets, and waits until no replica has a record or a tombstone left.
async fn empty(cluster: &World, context: &Field, own: Vec<Bucket>) {
    let running = cluster.running();
    for bucket in context.buckets().into_iter().chain(own) {
        doomed::delete(cluster, &running, &bucket).await;
    }
    for seat in running {
        let what = format!("node {seat} has no record and no tombstone left");
        eventually(&what, EMPTY_WITHIN, async || {
            let status = cluster.status(seat).await?;
            let mut shards = status.groups.iter().filter(|group| group.is_shard());
            shards
                .all(|group| group.digest == "0000000000000000")
                .then_some(())
        })
        .await;
    }
}
