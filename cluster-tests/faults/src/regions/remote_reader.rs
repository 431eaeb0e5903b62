//! Readers of keys that other regions write.

use std::sync::Arc;

use super::context::RegionsContext;
use super::region_call::RegionCall;
use crate::call_record::Action;
use crate::recording_client::RecordingClient;
use crate::workload;
use cloudkv_test_harness::rng::Rng;

/// Reads keys that other regions write, until the run is stopped.
pub(super) async fn read_other_regions(
    context: Arc<RegionsContext>,
    number: u32,
    region: usize,
    seed: u64,
) {
    let mut rng = Rng::derived(seed, u64::from(number));
    let new_clients = |shared| {
        let seats = context.seats[region].clone();
        let clients = seats.map(|seat| RecordingClient::new(shared, number, seat));
        clients.collect::<Vec<_>>()
    };
    let shared = context.remote_readers.iter().map(|(shared, _)| shared);
    let mut clients: Vec<Vec<RecordingClient>> = shared.map(new_clients).collect();
    while !context.is_stopped() {
        let region_count = context.region_count();
        let owner =
            (region + 1 + rng.index(region_count.saturating_sub(1).max(1))) % region_count.max(1);
        if owner != region {
            let readable = context.readable_generations(owner);
            let generation = rng.range(*readable.start()..*readable.end() + 1);
            let (key, _) = workload::next_call(&mut rng, generation);
            let node = rng.index(clients[owner].len());
            let record = clients[owner][node].send(key, Action::Get, None).await;
            let (shared, visits) = &context.remote_readers[owner];
            shared.history.counts.count(&record);
            visits.add(key, RegionCall::without_session(region, record));
        }
        tokio::time::sleep(rng.millis(context.shared_keys.think_time_ms.clone())).await;
    }
}
