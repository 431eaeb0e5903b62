//! Steps that both measurements of a rejoining node share.

use std::time::Instant;

use anyhow::ensure;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::load::{PlainLoadResult, fill};
use cloudkv_test_harness::region::Region;

/// Seat of the node that loses its disk.
pub(super) const REJOINING_SEAT: usize = 2;

/// Writes keys `0` to `keys`, with values of this many bytes, by this many clients of all nodes.
pub(super) async fn write_keys(
    region: &Region,
    bucket: &Bucket,
    clients: usize,
    keys: u64,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let nodes = region.http_addresses(region.running());
    fill(&nodes, bucket, clients, keys, value_bytes).await?;
    println!(
        "{keys} values of {value_bytes} B written in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Prints the failed requests of a load under which a node was killed, and verifies them.
///
/// # Errors
/// Fails if more failed than the node's end explains.
pub(super) fn check_errors(outcome: &PlainLoadResult, clients: usize) -> anyhow::Result<()> {
    println!(
        "{} errors, {} of them writes of unknown outcome, {} requests retried",
        outcome.errors, outcome.unknown_outcomes, outcome.retries
    );
    // The node was killed: only writes in flight to it may fail, one for each client.
    let in_flight = outcome.unknown_outcomes <= clients as u64;
    let shown = outcome.first_errors.join("\n");
    ensure!(
        outcome.errors == outcome.unknown_outcomes && in_flight,
        "{shown}"
    );
    Ok(())
}
