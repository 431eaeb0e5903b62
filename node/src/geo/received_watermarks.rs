//! Asks the other regions how much of this one they have received, before it joins them anew.

use futures_util::future::join_all;

use super::region_removal::query_state;
use super::replication::GeoReplication;
use crate::types::Nanos;

impl GeoReplication {
    /// Returns for each shard the highest watermark of this region that every other region has
    /// received: each has had all writes of this region up to it. 0 where a region doesn't answer.
    pub(crate) async fn received_watermarks(&self) -> Vec<Nanos> {
        let numbers = (0..).zip(&self.shards).map(|(number, _)| number);
        join_all(numbers.map(|number| self.received_watermark(number))).await
    }

    async fn received_watermark(&self, shard: u16) -> Nanos {
        let topology = self.catalog.topology();
        let regions = topology.all_regions().iter();
        let others = regions
            .filter(|(number, region)| **number != self.local.region && !region.is_removing)
            .map(|(number, _)| self.received_by(shard, *number));
        let received = join_all(others).await;
        received.into_iter().min().unwrap_or(0)
    }

    async fn received_by(&self, shard: u16, region: u32) -> Nanos {
        let Some(node) = self.leader_in(shard, region) else {
            return 0;
        };
        let state = query_state(self, shard, node, self.local).await;
        state.map_or(0, |state| state.watermark)
    }
}
