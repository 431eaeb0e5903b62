//! A region that is cut off and killed as a whole, just after a bucket was created in it.
//!
//! What its nodes have shown of the metadata they must show again when they are back, though they
//! reach no other region: the newest bucket is read and written before the links are healed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::faults::harm;
use crate::harness::{Bucket, eventually};
use crate::region::World;

/// How long the metadata may take to create a bucket.
const DONE_WITHIN: Duration = Duration::from_secs(60);

/// How soon the nodes of the region must serve the bucket after their restart.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// Creates a bucket, uses it through each node of a region, cuts the region off, kills these nodes,
/// and starts them again. Each must serve the bucket before the region hears of any other.
///
/// # Panics
/// When the bucket can't be created, or a node doesn't serve it.
pub(super) async fn restart(world: &mut World, region: usize, hold: Duration) -> Bucket {
    let seats: Vec<usize> = world.seats(region).collect();
    let bucket = create(world, &seats).await;
    for seat in &seats {
        let api = world.api(*seat);
        let path = bucket.key(&format!("cut-{seat}"));
        eventually("a new bucket is written", DONE_WITHIN, async || {
            let put = api.put(&path, "before").try_send().await.ok()?;
            (put.status == 200).then_some(())
        })
        .await;
    }
    world.cut_off(region);
    harm::kill(world, &seats, hold).await;
    for seat in &seats {
        let api = world.api(*seat);
        let path = bucket.key(&format!("cut-{seat}"));
        let what = format!("node {seat} serves the newest bucket after a restart, cut off");
        eventually(&what, SERVES_WITHIN, async || {
            let got = api.get(&path).try_send().await.ok()?;
            let put = api.put(&path, "before").try_send().await.ok()?;
            let same = got.status != 200 || got.text() == "before";
            assert!(same, "node {seat} has another value: {got:?}");
            (got.status == 200 && put.status == 200).then_some(())
        })
        .await;
    }
    world.network.heal();
    bucket
}

async fn create(world: &World, seats: &[usize]) -> Bucket {
    let tries = AtomicUsize::new(0);
    eventually("a bucket is created", DONE_WITHIN, async || {
        let at = tries.fetch_add(1, Ordering::Relaxed);
        let api = world.api(seats[at % seats.len()]);
        let made = api.post("/buckets").query(&[("plan", "pro")]);
        let made = made.try_send().await.ok()?;
        (made.status == 201).then(|| Bucket::from_answer(&made))
    })
    .await
}
