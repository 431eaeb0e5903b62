//! A node of three whose clock is wrong: it leads nothing, and no leadership is transferred to it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::Region;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Offset of the wrong clock, in milliseconds.
const CLOCK_OFFSET_MS: i64 = 5 * 60 * 1000;
/// Maximum number of elections of a group that the test itself causes: each of three nodes stops
/// once, its shards move to another one and may move back, and an election may fail.
const MAX_ELECTIONS: u64 = 12;

/// Waits until each of these nodes leads a shard again.
async fn wait_preferred(region: &Region, seats: &[usize]) {
    eventually("nodes lead their shards again", STATE_TIMEOUT, async || {
        let statuses = region.statuses().await;
        let leads = |seat: &usize| {
            let status = statuses.get(seat);
            status.is_some_and(|status| status.led_groups().any(|group| group.is_shard()))
        };
        seats.iter().all(leads).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_leads_nothing_and_gets_no_leadership() {
    let mut region = Region::start().await;
    region.expect_errors(&["clock"]);
    region.wait_leaders_balanced().await;
    let before = region.terms().await;
    region.terminate(0).await;
    region.nodes[0].set_clock(CLOCK_OFFSET_MS);
    region.restart(0).await;
    assert!(!region.wait_status(0).await.clock_ok);
    // The others stop, too, and get their leaderships back, which takes a while: leaderships of
    // the first node would have been transferred to it meanwhile.
    for seat in [1, 2] {
        region.terminate(seat).await;
        let other = 3 - seat;
        assert_eq!(region.wait_leader("meta").await, other);
        region.restart(seat).await;
        wait_preferred(&region, &[1, 2]).await;
    }
    let after = region.terms().await;
    for (group, term) in &after {
        let elections = term - before[group];
        assert!(elections <= MAX_ELECTIONS, "{group}: {elections} elections");
    }
    let status = region.wait_status(0).await;
    assert_eq!(status.led_groups().count(), 0, "{status:?}");
    assert!(!status.clock_ok);
    let errors = region.nodes[0].log().errors();
    let is_reported = |line: &String| line.contains("clock is too far");
    assert!(errors.iter().any(is_reported), "not reported: {errors:?}");
    // With a right clock it leads again.
    region.terminate(0).await;
    region.nodes[0].set_clock(0);
    region.restart(0).await;
    wait_preferred(&region, &[0, 1, 2]).await;
}
