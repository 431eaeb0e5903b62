//! A bucket that is deleted while a region that is cut off goes on writing to it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Api, Bucket, eventually};
use crate::region::World;

/// How long the metadata may take to do what it is asked for, with two of three regions.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// How soon a region must have heard of a new or deleted bucket.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Keys that each region writes before.
const KEYS: usize = 10;

/// A bucket that was deleted.
#[derive(Clone, Debug)]
pub(super) struct Doomed {
    bucket: Bucket,
    /// Writes that were acknowledged after it had been deleted.
    pub late: u64,
}

/// Makes a bucket, fills it, cuts a region off, deletes the bucket in another one, and writes in the
/// region that can't know of it for a while.
///
/// # Panics
/// When the bucket can't be made or deleted by two of three regions.
pub(super) async fn drop_bucket(world: &World, cut_off: usize, hold: Duration) -> Doomed {
    let regions = world.running_regions();
    let nodes: Vec<usize> = regions
        .iter()
        .flat_map(|region| world.seats(*region))
        .collect();
    let bucket = create(world, &nodes).await;
    for region in &regions {
        let api = world.api(world.seats(*region).start);
        eventually("a new bucket is written", HEARD_WITHIN, async || {
            let mut written = 0;
            for key in 0..KEYS {
                written += write(&api, &bucket, &format!("{region}-{key}")).await;
            }
            (written == KEYS as u64).then_some(())
        })
        .await;
    }
    world.cut_off(cut_off);
    let others: Vec<usize> = nodes
        .into_iter()
        .filter(|seat| world.region_of(*seat) != cut_off)
        .collect();
    delete(world, &others, &bucket).await;
    let until = tokio::time::Instant::now() + hold;
    let mut late = 0;
    for number in 0_u64.. {
        let seats = world.seats(cut_off);
        let seat = seats.start + usize::try_from(number).unwrap_or(0) % seats.len();
        late += write(&world.api(seat), &bucket, &format!("late-{number}")).await;
        if tokio::time::Instant::now() >= until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.network.heal();
    Doomed { bucket, late }
}

impl Doomed {
    /// Waits until every node says that there is no such bucket, to readers and to writers.
    pub async fn wait_gone(&self, world: &World) {
        for seat in world.running() {
            let what = format!("node {seat} knows that the bucket was deleted");
            let api = world.api(seat);
            let path = self.bucket.key("0-0");
            eventually(&what, HEARD_WITHIN, async || {
                for call in [
                    api.get(&path),
                    api.put(&path, "x"),
                    api.get(&self.bucket.keys()),
                ] {
                    let answer = call.try_send().await.ok()?;
                    let gone = answer.status == 404 && answer.error_code() == "unknown_bucket";
                    gone.then_some(())?;
                }
                Some(())
            })
            .await;
        }
    }
}

/// Whether a write was acknowledged, as a number.
async fn write(api: &Api, bucket: &Bucket, name: &str) -> u64 {
    let put = api.put(&bucket.key(name), "v").try_send().await;
    u64::from(put.is_ok_and(|answer| answer.status == 200))
}

async fn create(world: &World, nodes: &[usize]) -> Bucket {
    let tries = AtomicUsize::new(0);
    eventually("a bucket is made", DONE_WITHIN, async || {
        let at = tries.fetch_add(1, Ordering::Relaxed);
        let api = world.api(nodes[at % nodes.len()]);
        let made = api.post("/buckets").query(&[("plan", "pro")]);
        let made = made.try_send().await.ok()?;
        (made.status == 201).then(|| Bucket::from_answer(&made))
    })
    .await
}

/// Deletes a bucket with as many keys as there are.
pub(super) async fn delete(world: &World, nodes: &[usize], bucket: &Bucket) {
    let (tries, keys) = (AtomicUsize::new(0), AtomicU64::new(0));
    eventually("a bucket is deleted", DONE_WITHIN, async || {
        // Regions may count differently: the one that told the number is asked again.
        let at = tries.load(Ordering::Relaxed);
        let api = world.api(nodes[at % nodes.len()]);
        let confirm = keys.load(Ordering::Relaxed);
        let path = format!("{}?confirm={confirm}", bucket.path());
        let deleted = api.delete(&path).api_key(&bucket.account);
        let deleted = deleted.try_send().await.ok()?;
        match deleted.status {
            // Or an earlier call whose answer was lost.
            200 | 404 => return Some(()),
            409 => {
                let there = deleted.json()["keys"].as_u64()?;
                keys.store(there, Ordering::Relaxed);
            }
            503 | 504 => {
                tries.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("deleting a bucket: {deleted:?}"),
        }
        None
    })
    .await;
}
