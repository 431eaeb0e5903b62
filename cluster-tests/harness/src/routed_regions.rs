//! Several regions behind a router, with a bucket that all of them hold.

use std::time::Duration;

use super::http::Bucket;
use super::load::{LoadPattern, PlainLoad, fill};
use super::region::{MultiRegionCluster, RegionOptions};
use super::response::HttpResponse;
use super::router::Router;
use super::wait::eventually;

/// Time for a region to be served under its own name.
const SERVED_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of clients that write the bucket's keys.
const FILL_CLIENTS: usize = 16;

/// Host name of the nearest region that is healthy.
const GLOBAL_HOST: &str = "api.cloudkv.io";

/// Regions behind a router whose own region is the first of them, and a bucket with some keys.
#[derive(Debug)]
pub struct RoutedRegions {
    /// The regions.
    pub cluster: MultiRegionCluster,
    /// The router.
    pub router: Router,
    /// The bucket.
    pub bucket: Bucket,
    /// Number of its keys, which are named `0` and so on.
    keys: u64,
}

impl RoutedRegions {
    /// Starts regions of so many nodes each, the router, and a bucket with so many keys. All
    /// regions hold the keys and are served then.
    pub async fn start(names: &[&str], nodes_per_region: usize, keys: u64) -> Self {
        let options = RegionOptions::default();
        let cluster =
            MultiRegionCluster::start_with(names, nodes_per_region, names.len(), options).await;
        let seeds = cluster.rpc_addresses(cluster.running());
        let router = Router::start_with(&seeds, &["--region", names[0]]).await;
        let bucket = cluster.api(0).create_bucket_with(&[("plan", "pro")]).await;
        let filled = fill(&cluster.http_addresses([0]), &bucket, FILL_CLIENTS, keys, 1).await;
        filled.expect("write the keys");
        cluster.wait_bucket_converged(&bucket).await;
        let regions = Self {
            cluster,
            router,
            bucket,
            keys,
        };
        for region in 0..names.len() {
            regions.wait_served(region).await;
        }
        regions
    }

    /// Starts clients of the global name that read and write the keys, with so many requests per
    /// second together.
    pub fn load(&self, clients: usize, rate: f64) -> PlainLoad {
        let (targets, work) = ([self.router.http()], LoadPattern::AllKeys(self.keys));
        PlainLoad::start(&targets, &self.bucket, clients, work, Some(rate))
    }

    /// Reads a key through the router under this host name; `None` without a response.
    pub async fn get(&self, host: &str) -> Option<HttpResponse> {
        let call = self.router.api().get(&self.bucket.key_path("0"));
        call.header("host", host).try_send().await.ok()
    }

    /// Reads a key through the router under a region's own name; `None` without a response.
    pub async fn get_from(&self, region: usize) -> Option<HttpResponse> {
        let name = &self.cluster.names()[region];
        self.get(&format!("api.{name}.cloudkv.io")).await
    }

    /// Returns the name of the region that serves the global name, if one does.
    pub async fn global_region(&self) -> Option<String> {
        let answer = self.get(GLOBAL_HOST).await?;
        (answer.status == 200).then(|| answer.header("x-cloudkv-region").to_owned())
    }

    /// Waits until a region is served under its own name.
    pub async fn wait_served(&self, region: usize) {
        let what = format!("{} is served", self.cluster.names()[region]);
        eventually(&what, SERVED_TIMEOUT, async || {
            let answer = self.get_from(region).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}
