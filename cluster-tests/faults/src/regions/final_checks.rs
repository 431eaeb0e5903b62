//! Checks after the last fault of a run over several regions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::context::RegionsContext;
use super::convergence::wait_for_convergence;
use super::deleted_bucket::{self, DeletedBucket};
use super::load::FinishedLoad;
use super::lww_checker::{self, FinalState};
use crate::answer::parse_content;
use crate::checker::Content;
use crate::history::KeyName;
use crate::version::Version;
use crate::watch::WATCHED_PREFIX;
use cloudkv_test_harness::region::{BucketContents, LiveKey, MultiRegionCluster};
use cloudkv_test_harness::{Bucket, eventually};

/// Time for regions to converge.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(120);

/// Time for tombstones to be removed once nothing is written any more.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(120);

/// Notes and failures.
type NotesAndFailures = (Vec<String>, Vec<String>);

/// Runs all checks that are only possible at the end.
///
/// # Panics
/// Panics if regions don't serve, don't converge, or keep what was deleted.
pub(super) async fn check(
    cluster: &mut MultiRegionCluster,
    context: &RegionsContext,
    ended: &mut FinishedLoad,
    deleted: &[DeletedBucket],
    mut own: Vec<Bucket>,
    report: impl Fn(&str),
) -> NotesAndFailures {
    report("waiting until all nodes serve");
    for region in cluster.running_regions() {
        cluster.wait_serving(region).await;
    }
    report("checking the histories that are left, and reading all keys again");
    for checker in &mut ended.checkers {
        checker.finish().await;
    }
    ended.bucket_lists.finish().await;
    report("comparing the regions");
    let mut failures = vec![];
    let mut compared = 0;
    let mut contents = HashMap::new();
    for bucket in context.buckets() {
        match wait_for_convergence(cluster, &bucket, CONVERGENCE_TIMEOUT).await {
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
    let common = contents.get(&context.shared_keys.bucket.id);
    if let Some(common) = common {
        failures.extend(check_shared_keys(context, common));
    }
    let mut notes = vec![];
    if let Some(watches) = ended.watches.take() {
        report("comparing what watchers have");
        let mut watched = watches.finish().await;
        notes.append(&mut watched.notes);
        failures.append(&mut watched.failures);
        own.append(&mut watched.buckets);
    }
    report("admin verify");
    let output = cluster.admin_with_retries(0, &["verify"]).await;
    if !output.contains("equal") || output.contains("different") {
        failures.push(format!("admin verify: {output}"));
    }
    cluster.wait_no_retained_changes().await;
    cluster.wait_converged().await;
    for deleted in deleted {
        deleted.wait_deleted(cluster).await;
    }
    notes.extend(count_notes(context));
    notes.push(format!(
        "keys compared at the end, byte by byte: {compared}"
    ));
    if context.token_reads.load(Ordering::Relaxed) == 0 {
        failures.push("no read with a session token was answered".into());
    }
    if failures.is_empty() {
        report("deleting all, and waiting until nothing is left");
        delete_all_buckets(cluster, context, own).await;
        notes.push("nothing is left of what was deleted in any replica".into());
    }
    (notes, failures)
}

/// Returns what the clients have counted.
fn count_notes(context: &RegionsContext) -> [String; 2] {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        format!(
            "visits of keys in all regions that were judged: {}",
            read(&context.checked_calls)
        ),
        format!(
            "reads with a session token: {} answered, {} refused",
            read(&context.token_reads),
            read(&context.refused_token_reads)
        ),
    ]
}

/// Checks all shared keys, with their final state.
fn check_shared_keys(context: &RegionsContext, contents: &BucketContents) -> Vec<String> {
    let now = context.now();
    let mut keys = context.take_shared_calls();
    let unwritten = contents.keys().filter(|name| {
        let is_known = keys.keys().any(|key| key.to_string() == **name);
        !is_known && !name.starts_with(WATCHED_PREFIX)
    });
    let mut failures: Vec<String> = unwritten
        .map(|name| format!("nobody ever wrote {name}"))
        .collect();
    let mut checked = 0;
    for (key, calls) in keys.drain() {
        checked += calls.len() as u64;
        let last = match contents.get(&key.to_string()).map(final_state_of) {
            None => None,
            Some(Some(last)) => Some(last),
            Some(None) => {
                failures.push(format!("{key} holds what no client wrote"));
                continue;
            }
        };
        if let Err(reason) = check_shared_key(context, key, &calls, last, now) {
            failures.push(reason);
        }
    }
    context.checked_calls.fetch_add(checked, Ordering::Relaxed);
    failures
}

fn check_shared_key(
    context: &RegionsContext,
    key: KeyName,
    calls: &[super::region_call::RegionCall],
    last: FinalState,
    now: u64,
) -> Result<(), String> {
    lww_checker::check_key(calls, context.run_start, Some((last, now))).map_err(|reason| {
        format!(
            "shared {key}: {reason}\n{}",
            lww_checker::format_calls(calls)
        )
    })
}

fn final_state_of(live_key: &LiveKey) -> Option<(Version, Content)> {
    let content = parse_content(&live_key.value, live_key.metadata.as_deref())?;
    let is_right_type = live_key.content_type == format!("text/x{}", content.value % 5);
    let version = Version::from_etag(&live_key.etag)?;
    is_right_type.then_some((version, content))
}

/// Deletes all buckets, and waits until no replica has a record or a tombstone left.
async fn delete_all_buckets(
    cluster: &MultiRegionCluster,
    context: &RegionsContext,
    own: Vec<Bucket>,
) {
    let running = cluster.running();
    for bucket in context.buckets().into_iter().chain(own) {
        deleted_bucket::delete_bucket(cluster, &running, &bucket).await;
    }
    for seat in running {
        let what = format!("node {seat} has no record and no tombstone left");
        eventually(&what, CLEANUP_TIMEOUT, async || {
            let status = cluster.status(seat).await?;
            let mut shards = status.groups.iter().filter(|group| group.is_shard());
            shards
                .all(|group| group.digest == "0000000000000000")
                .then_some(())
        })
        .await;
    }
}
