//! Asks the other regions for the newest versions that their shards have.

use futures_util::future::try_join_all;

use super::replication::GeoReplication;
use super::seeding::query_peer;
use crate::types::Version;

impl GeoReplication {
    /// Returns the newest version that each shard of each other region had at some moment during the
    /// call, with the number of the shard. Once this region has received a watermark as high, it has
    /// all that the other one had written before.
    ///
    /// # Errors
    /// Fails with the reason if a shard's leader doesn't answer.
    pub(crate) async fn peer_versions(&self) -> Result<Vec<(u16, Version)>, String> {
        let topology = self.catalog.topology();
        let regions = topology.all_regions().iter();
        let others = regions.filter(|(number, region)| {
            **number != self.local.region && !region.is_removing && !region.is_joining
        });
        let others: Vec<u32> = others.map(|(number, _)| *number).collect();
        let numbers = (0..).zip(&self.shards).map(|(number, _)| number);
        let queries = numbers.flat_map(|shard| {
            let others = others.iter();
            others.map(move |region| self.peer_version(shard, *region))
        });
        try_join_all(queries.collect::<Vec<_>>()).await
    }

    async fn peer_version(&self, shard: u16, region: u32) -> Result<(u16, Version), String> {
        let leader = self.leader_in(shard, region);
        let leader = leader.ok_or_else(|| {
            format!("ask region {region} for shard {shard}: its leader isn't known")
        })?;
        let failed = |reason: String| {
            let node = self.peers.name_of(leader);
            format!("ask {node} for shard {shard}: {reason}")
        };
        let answer = query_peer(self, shard, leader).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let answer = answer.ok_or_else(|| failed("it doesn't lead the shard".to_owned()))?;
        let time = answer.last_version;
        Ok((shard, Version { time, region }))
    }
}
