//! Several regions of one cluster, as processes, with the network of [`Region`] between all nodes.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::cluster::{FORMS_WITHIN, Region, RegionOptions};
use super::member::Start;
use crate::harness::{Bucket, eventually};

/// How long regions may take to agree after all links are healed.
const AGREE_WITHIN: Duration = Duration::from_secs(60);

/// Several regions; the nodes of one lie side by side.
#[derive(Debug)]
pub struct World {
    cluster: Region,
    names: Vec<String>,
    each: usize,
}

/// All live keys of a bucket: version and value.
pub type Contents = BTreeMap<String, (String, Vec<u8>)>;

impl World {
    /// Regions of `each` nodes, of which the first `running` are started, one after the other; the
    /// last ones can be started later.
    pub async fn start(names: &[&str], each: usize, running: usize) -> Self {
        Self::start_with(names, each, running, RegionOptions::default()).await
    }

    /// The same with other options.
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
        let mut world = Self {
            cluster,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            each,
        };
        for region in 0..running {
            world.start_region(region).await;
            world.wait_serving(region).await;
        }
        world
    }

    /// Starts the nodes of a region: the first founds the cluster, the others join.
    pub async fn start_region(&mut self, region: usize) {
        for seat in self.seats(region) {
            let start = if seat == 0 {
                Start::Init
            } else {
                Start::Join(vec![0])
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

    /// The seats of a region's nodes.
    pub fn seats(&self, region: usize) -> std::ops::Range<usize> {
        region * self.each..(region + 1) * self.each
    }

    /// Waits until all running nodes of a region are ready.
    pub async fn wait_serving(&self, region: usize) {
        for seat in self.seats(region) {
            if self.cluster.members[seat].runs() {
                self.cluster.wait_ready(seat).await;
            }
        }
    }

    /// Cuts a region off from the others, or heals all links.
    pub fn cut_off(&self, region: usize) {
        for one in self.seats(region) {
            for other in
                (0..self.cluster.members.len()).filter(|it| !self.seats(region).contains(it))
            {
                self.cluster.network.cut(one, other);
            }
        }
    }

    /// Delays all that goes between regions, each way.
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

    /// All that a region holds of a bucket, through one of its nodes.
    pub async fn contents(&self, region: usize, bucket: &Bucket) -> Option<Contents> {
        let seat = self
            .seats(region)
            .find(|seat| self.cluster.members[*seat].runs())?;
        let api = self.cluster.api(seat);
        let mut contents = Contents::new();
        let mut after = String::new();
        loop {
            let page = api
                .get(&bucket.keys())
                .query(&[("after", after.as_str())])
                .header("accept", "application/json")
                .try_send()
                .await
                .ok()?;
            let keys: Vec<Value> = match page.status {
                200 => page.json()["keys"].as_array()?.clone(),
                404 => return Some(contents),
                _ => return None,
            };
            for key in &keys {
                let name = key["name"].as_str()?;
                let got = api.get(&bucket.key(name)).try_send().await.ok()?;
                if got.status == 200 {
                    contents.insert(name.to_owned(), (got.etag(), got.body.to_vec()));
                }
                after = name.to_owned();
            }
            if keys.len() < 1000 {
                return Some(contents);
            }
        }
    }

    /// Waits until all regions hold the same of a bucket, byte by byte and version by version, and
    /// count the same; returns it.
    pub async fn wait_equal(&self, bucket: &Bucket) -> Contents {
        let regions: Vec<usize> = (0..self.names.len())
            .filter(|region| {
                let mut seats = self.seats(*region);
                seats.any(|seat| self.cluster.members[seat].runs())
            })
            .collect();
        eventually("all regions hold the same", AGREE_WITHIN, async || {
            let all = regions.iter().map(|region| self.contents(*region, bucket));
            let all = join_all(all).await;
            let first = all.first()?.clone()?;
            let same = all.iter().all(|other| other.as_ref() == Some(&first));
            if !same {
                return None;
            }
            for region in &regions {
                let seat = self
                    .seats(*region)
                    .find(|seat| self.cluster.members[*seat].runs())?;
                let summary = self.cluster.api(seat).summary(bucket).await;
                if summary["estimated_keys"] != first.len() {
                    return None;
                }
            }
            Some(first)
        })
        .await
    }

    /// Waits until a node's metrics say that nothing is held back for other regions.
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
                    let mut held = text
                        .lines()
                        .filter(|line| line.starts_with("cloudkv_geo_held_changes{"));
                    held.all(|line| line.ends_with(" 0")).then_some(())
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
