//! What is checked when the faults are over.

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

/// How long regions may take to agree.
const AGREE_WITHIN: Duration = Duration::from_secs(120);

/// How long tombstones may take to go when nothing is written any more.
const EMPTY_WITHIN: Duration = Duration::from_secs(120);

/// What is worth telling, and what is wrong.
type Found = (Vec<String>, Vec<String>);

/// Checks all that can be known only at the end.
///
/// # Panics
/// When regions don't serve, don't agree, or don't forget what was deleted.
pub(super) async fn check(
    world: &mut World,
    field: &Field,
    ended: &mut Ended,
    doomed: &[Doomed],
    own: Vec<Bucket>,
    say: impl Fn(&str),
) -> Found {
    say("waiting until all nodes serve");
    for region in world.running_regions() {
        world.wait_serving(region).await;
    }
    say("checking the histories that are left, and reading all keys again");
    for settler in &mut ended.settlers {
        settler.finish().await;
    }
    ended.directory.finish().await;
    say("comparing the regions");
    let mut wrong = vec![];
    let mut compared = 0;
    let mut held = HashMap::new();
    for bucket in field.buckets() {
        match agree(world, &bucket, AGREE_WITHIN).await {
            Ok(all) => {
                compared += all.len();
                held.insert(bucket.id.clone(), all);
            }
            Err(why) => {
                say(&why);
                wrong.push(why);
            }
        }
    }
    let common = held.get(&field.common.bucket.id);
    if let Some(common) = common {
        wrong.extend(judge_shared(field, common));
    }
    say("admin verify");
    let told = world.insist(0, &["verify"]).await;
    if !told.contains("equal") || told.contains("different") {
        wrong.push(format!("admin verify: {told}"));
    }
    world.wait_nothing_held().await;
    world.wait_converged().await;
    for doomed in doomed {
        doomed.wait_gone(world).await;
    }
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut notes = vec![
        format!(
            "visits of keys in all regions that were judged: {}",
            read(&field.judged)
        ),
        format!(
            "reads with a session token: {} answered, {} refused",
            read(&field.with_token),
            read(&field.refused)
        ),
        format!("keys compared at the end, byte by byte: {compared}"),
    ];
    if read(&field.with_token) == 0 {
        wrong.push("no read with a session token was answered".into());
    }
    if wrong.is_empty() {
        say("deleting all, and waiting until nothing is left");
        empty(world, field, own).await;
        notes.push("nothing is left of what was deleted in any replica".into());
    }
    (notes, wrong)
}

/// Judges all shared keys, with what they hold at the end.
fn judge_shared(field: &Field, held: &Holdings) -> Vec<String> {
    let now = field.now();
    let mut keys = field.take_visits();
    let invented = held.keys().filter(|name| {
        let known = keys.keys().any(|key| key.to_string() == **name);
        !known
    });
    let mut wrong: Vec<String> = invented
        .map(|name| format!("nobody ever wrote {name}"))
        .collect();
    let mut judged = 0;
    for (key, visits) in keys.drain() {
        judged += visits.len() as u64;
        let last = match held.get(&key.to_string()).map(last_of) {
            None => None,
            Some(Some(last)) => Some(last),
            Some(None) => {
                wrong.push(format!("{key} holds what no client wrote"));
                continue;
            }
        };
        if let Err(why) = judge_key(field, key, &visits, last, now) {
            wrong.push(why);
        }
    }
    field.judged.fetch_add(judged, Ordering::Relaxed);
    wrong
}

fn judge_key(
    field: &Field,
    key: KeyName,
    visits: &[super::visit::Visit],
    last: Last,
    now: u64,
) -> Result<(), String> {
    judge::judge(visits, field.origin, Some((last, now)))
        .map_err(|why| format!("shared {key}: {why}\n{}", judge::history(visits)))
}

fn last_of(held: &Held) -> Option<(Version, u64)> {
    let value: u64 = std::str::from_utf8(&held.value).ok()?.parse().ok()?;
    let right_type = held.content_type == format!("text/x{}", value % 5);
    let version = Version::of_etag(&held.etag)?;
    right_type.then_some((version, value))
}

/// Deletes all buckets, and waits until no replica has a record or a tombstone left.
async fn empty(world: &World, field: &Field, own: Vec<Bucket>) {
    let running = world.running();
    for bucket in field.buckets().into_iter().chain(own) {
        doomed::delete(world, &running, &bucket).await;
    }
    for seat in running {
        let what = format!("node {seat} has no record and no tombstone left");
        eventually(&what, EMPTY_WITHIN, async || {
            let status = world.status(seat).await?;
            let mut shards = status.groups.iter().filter(|group| group.is_shard());
            shards
                .all(|group| group.digest == "0000000000000000")
                .then_some(())
        })
        .await;
    }
}
