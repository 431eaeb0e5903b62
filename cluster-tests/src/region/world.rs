//! Several regions of one cluster, as processes, with the network of [`Region`] between all nodes.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::join_all;

use super::cluster::{FORMS_WITHIN, Region, RegionOptions};
use super::contents::Contents;
use super::member::Start;
use crate::harness::{Bucket, eventually};

/// Time for regions to converge after all links are healed.
const AGREE_WITHIN: Duration = Duration::from_secs(60);

/// Several regions of the same size; the seats of a region are adjacent.
#[derive(Debug)]
pub struct World {
    cluster: Region,
    names: Vec<String>,
    each: usize,
}

impl World {
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
            cluster.members[seat].flags.region = names[seat / each].to_owned();
        }
        let mut regions = Self {
            cluster,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            each,
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
            let running: Vec<usize> = (0..self.cluster.members.len())
                .filter(|other| self.cluster.members[*other].runs())
                .collect();
            let start = if running.is_empty() {
                Start::Init
            } else {
                Start::Join(running)
            };
            self.cluster.launch(seat, &start);
            if seat == 0 {
                self.cluster.wait_listening(seat).await;
            }
        }
        join_all(
            self.seats(region)
                .map(|seat| self.cluster.wait_listening(seat)),
        )
        .await;
    }

    /// Returns the seats of a region's nodes.
    pub fn seats(&self, region: usize) -> std::ops::Range<usize> {
        region * self.each..(region + 1) * self.each
    }

    /// Returns the names of the regions.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the regions of which a node was started and not stopped since.
    pub fn running_regions(&self) -> Vec<usize> {
        let all = 0..self.names.len();
        all.filter(|region| self.teller(*region).is_some())
            .collect()
    }

    /// Returns the seat of a running node of a region.
    pub(super) fn teller(&self, region: usize) -> Option<usize> {
        self.seats(region)
            .find(|seat| self.cluster.members[*seat].runs())
    }

    /// Returns the seat of a shard's leader in a region, if one of the nodes that answer leads it.
    pub async fn leader_in(&self, region: usize, group: &str) -> Option<usize> {
        let queries = self.seats(region).map(|seat| self.cluster.status(seat));
        let statuses = join_all(queries).await;
        let led = self
            .seats(region)
            .zip(statuses)
            .filter_map(|(seat, status)| {
                let status = status?;
                let group_status = status.group(group).filter(|group_status| group_status.leads())?;
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
        seat / self.each
    }

    /// Waits until all running nodes of a region are ready.
    pub async fn wait_serving(&self, region: usize) {
        for seat in self.seats(region) {
            if self.cluster.members[seat].runs() {
                self.cluster.wait_ready(seat).await;
            }
        }
    }

    /// Isolates a region from the others.
    pub fn cut_off(&self, region: usize) {
        for one in self.seats(region) {
            for other in
                (0..self.cluster.members.len()).filter(|it| !self.seats(region).contains(it))
            {
                self.cluster.network.cut(one, other);
            }
        }
    }

    /// Delays all traffic between regions, in each direction.
    pub fn delay(&self, delay: Duration) {
        let nodes = self.cluster.members.len();
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| to / self.each != from / self.each) {
                self.cluster.network.shape(from, to, |link| {
                    link.requests.delay = delay;
                    link.replies.delay = delay;
                });
            }
        }
    }

    /// Waits until all regions have the same contents of a bucket, byte by byte and version by
    /// version, and count the same; returns them.
    pub async fn wait_equal(&self, bucket: &Bucket) -> Contents {
        let regions = self.running_regions();
        eventually("all regions hold the same", AGREE_WITHIN, async || {
            let all = regions.iter().map(|region| self.contents(*region, bucket));
            let all = join_all(all).await;
            let first = all.first()?.clone()?;
            let are_equal = all.iter().all(|other| other.as_ref() == Some(&first));
            if !are_equal {
                return None;
            }
            for region in &regions {
                let seat = self.teller(*region)?;
                let summary = self.cluster.api(seat).try_summary(bucket).await?;
                if summary["estimated_keys"] != first.len() {
                    return None;
                }
            }
            Some(first)
        })
        .await
    }

    /// Waits until the nodes' metrics show no retained changes for other regions.
    pub async fn wait_nothing_held(&self) {
        for seat in self.cluster.running() {
            eventually(
                "nothing is held for other regions",
                FORMS_WITHIN,
                async || {
                    let page = self.cluster.members[seat]
                        .admin_api()
                        .get("/metrics")
                        .unchecked();
                    let page = page.try_send().await.ok()?;
                    let text = page.text().to_owned();
                    let mut retained = text
                        .lines()
                        .filter(|line| line.starts_with("cloudkv_geo_held_changes{"));
                    retained.all(|line| line.ends_with(" 0")).then_some(())
                },
            )
            .await;
        }
    }
}

impl Deref for World {
    type Target = Region;

    fn deref(&self) -> &Region {
        &self.cluster
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Region {
        &mut self.cluster
    }
}
