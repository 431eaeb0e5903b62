//! Several regions of one cluster, as processes, with the network of [`Region`] between all nodes.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::join_all;

use super::lifecycle::{FORM_TIMEOUT, Region, RegionOptions};
use super::node_process::StartMode;
use crate::eventually;
use crate::prometheus::sum_of_samples;

/// Several regions of the same size; the seats of a region are adjacent.
#[derive(Debug)]
pub struct MultiRegionCluster {
    inner: Region,
    names: Vec<String>,
    nodes_per_region: usize,
}

impl MultiRegionCluster {
    /// Creates regions of `each` nodes and starts the first `running` regions, one after the other;
    /// the others can be started later.
    pub async fn start(names: &[&str], each: usize, running: usize) -> Self {
        Self::start_with(names, each, running, RegionOptions::default()).await
    }

    /// Creates regions with these options and starts the first ones.
    pub async fn start_with(
        names: &[&str],
        each: usize,
        running: usize,
        options: RegionOptions,
    ) -> Self {
        let nodes = names.len() * each;
        let mut cluster = Region::prepare(RegionOptions {
            nodes,
            seats: nodes,
            ..options
        });
        for seat in 0..nodes {
            cluster.nodes[seat].flags.region = names[seat / each].to_owned();
        }
        let mut regions = Self {
            inner: cluster,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            nodes_per_region: each,
        };
        for region in 0..running {
            regions.start_region(region).await;
            regions.wait_serving(region).await;
        }
        regions
    }

    /// Starts the nodes of a region: the first one bootstraps the cluster, the others join.
    pub async fn start_region(&mut self, region: usize) {
        for seat in self.seats(region) {
            let running: Vec<usize> = (0..self.inner.nodes.len())
                .filter(|other| self.inner.nodes[*other].is_running())
                .collect();
            let start = if running.is_empty() {
                StartMode::Bootstrap
            } else {
                StartMode::Join(running)
            };
            self.inner.launch(seat, &start);
            if seat == 0 {
                self.inner.wait_listening(seat).await;
            }
        }
        join_all(
            self.seats(region)
                .map(|seat| self.inner.wait_listening(seat)),
        )
        .await;
    }

    /// Returns the seats of a region's nodes.
    pub fn seats(&self, region: usize) -> std::ops::Range<usize> {
        region * self.nodes_per_region..(region + 1) * self.nodes_per_region
    }

    /// Returns the names of the regions.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the regions of which a node was started and not stopped since.
    pub fn running_regions(&self) -> Vec<usize> {
        let all = 0..self.names.len();
        all.filter(|region| self.any_running(*region).is_some())
            .collect()
    }

    /// Returns the seat of a running node of a region.
    pub(super) fn any_running(&self, region: usize) -> Option<usize> {
        self.seats(region)
            .find(|seat| self.inner.nodes[*seat].is_running())
    }

    /// Returns the seat of a shard's leader in a region, if one of the nodes that answer leads it.
    pub async fn leader_in_region(&self, region: usize, group: &str) -> Option<usize> {
        let queries = self.seats(region).map(|seat| self.inner.status(seat));
        let statuses = join_all(queries).await;
        let led = self
            .seats(region)
            .zip(statuses)
            .filter_map(|(seat, status)| {
                let status = status?;
                let group_status = status
                    .group(group)
                    .filter(|group_status| group_status.is_leader())?;
                Some((group_status.term, seat))
            });
        led.max().map(|(_, seat)| seat)
    }

    /// Returns all pairs of a node of one region and one of the other.
    pub fn pairs(&self, one: usize, other: usize) -> Vec<(usize, usize)> {
        let others = || self.seats(other);
        self.seats(one)
            .flat_map(|from| others().map(move |to| (from, to)))
            .collect()
    }

    /// Returns the region of the node at this seat.
    pub fn region_of(&self, seat: usize) -> usize {
        seat / self.nodes_per_region
    }

    /// Waits until all running nodes of a region are ready.
    pub async fn wait_serving(&self, region: usize) {
        for seat in self.seats(region) {
            if self.inner.nodes[seat].is_running() {
                self.inner.wait_ready(seat).await;
            }
        }
    }

    /// Isolates a region from the others.
    pub fn isolate_region(&self, region: usize) {
        for one in self.seats(region) {
            for other in (0..self.inner.nodes.len()).filter(|it| !self.seats(region).contains(it)) {
                self.inner.network.cut(one, other);
            }
        }
    }

    /// Delays all traffic between regions, in each direction.
    pub fn delay_regions(&self, delay: Duration) {
        let nodes = self.inner.nodes.len();
        for from in 0..nodes {
            for to in
                (0..nodes).filter(|to| to / self.nodes_per_region != from / self.nodes_per_region)
            {
                self.inner.network.shape(from, to, |link| {
                    link.requests.delay = delay;
                    link.replies.delay = delay;
                });
            }
        }
    }

    /// Waits until the nodes' metrics show no retained changes for other regions.
    pub async fn wait_no_retained_changes(&self) {
        for seat in self.inner.running() {
            eventually(
                "nothing is held for other regions",
                FORM_TIMEOUT,
                async || {
                    let admin = self.inner.nodes[seat].admin_api();
                    let page = admin.get("/metrics").unchecked().try_send().await.ok()?;
                    let changes = sum_of_samples(page.text(), "cloudkv_geo_held_changes", "");
                    (changes == 0.0).then_some(())
                },
            )
            .await;
        }
    }
}

impl Deref for MultiRegionCluster {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.inner
    }
}

impl DerefMut for MultiRegionCluster {
    fn deref_mut(&mut self) -> &mut Region {
        &mut self.inner
    }
}
