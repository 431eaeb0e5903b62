//! Loses the region that a router's global name resolves to, and measures the time until all
//! requests to that name succeed again, and the cost.

use std::time::Duration;

use anyhow::{Context, ensure};
use cloudkv_test_harness::load::{ExchangeOutcome, LoadPattern, NodeConnection, PlainLoad};
use cloudkv_test_harness::region::{MultiRegionCluster, RegionOptions};
use cloudkv_test_harness::{Bucket, HttpResponse, RawRequest, Router, eventually};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const SERVED_TIMEOUT: Duration = Duration::from_secs(120);
/// Number of keys that the load reads and writes.
const KEY_COUNT: u64 = 256;
/// Interval between two probe writes: the precision of the measurement.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Duration of the probe writes after the loss.
const WATCH_DURATION: Duration = Duration::from_secs(5);
/// Time after which a probe write counts as failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time until the global name is served again.
const MAX_OUTAGE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of region losses
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Nodes of each of the three regions
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Clients of the router
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests per second, all clients together, half of them writes
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Freeze the region's nodes, as if no packet reached them, instead of killing them
    #[arg(long)]
    still: bool,
}

struct Scenario {
    world: MultiRegionCluster,
    router: Router,
    bucket: Bucket,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut scene = Scenario::start(args).await;
    let (mut times, mut requests, mut unknown) = (vec![], 0, 0);
    for round in 1..=args.rounds {
        let lost = scene.global_region().await?;
        let load = scene.load(args);
        load.wait_progress(500).await;
        scene.fail_region(lost, args.still);
        let outage = scene.measure_outage(round).await;
        scene.check_refused(lost).await?;
        scene.restore_region(lost, args.still).await;
        let outcome = load.stop().await;
        println!(
            "{round:3}: {}: the global name is served again after {} ms; {} requests, {} of \
             unknown outcome, {} other errors",
            REGIONS[lost],
            outage.as_millis(),
            outcome.requests,
            outcome.unknown_outcomes,
            outcome.errors - outcome.unknown_outcomes
        );
        for error in outcome
            .first_errors
            .iter()
            .filter(|_| outcome.errors > outcome.unknown_outcomes)
        {
            println!("     {error}");
        }
        times.push(outage);
        requests += outcome.requests;
        unknown += outcome.unknown_outcomes;
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "a region lost {} times: the global name was served again after {} ms in the median, \
         {} ms at worst; {requests} requests, {unknown} writes of unknown outcome",
        times.len(),
        median.as_millis(),
        worst.as_millis()
    );
    ensure!(
        worst <= MAX_OUTAGE,
        "the longest outage took more than {MAX_OUTAGE:?}"
    );
    Ok(())
}

impl Scenario {
    async fn start(args: &Args) -> Self {
        let world =
            MultiRegionCluster::start_with(&REGIONS, args.nodes, 3, RegionOptions::default()).await;
        let seats = world.running().into_iter();
        let seeds: Vec<_> = seats.map(|seat| world.seat(seat).rpc()).collect();
        let router = Router::start_with(&seeds, &["--region", REGIONS[0]]).await;
        let bucket = world.api(0).create_bucket_with(&[("plan", "pro")]).await;
        let scene = Self {
            world,
            router,
            bucket,
        };
        let puts = (0..KEY_COUNT).map(async |key| {
            let path = scene.bucket.key_path(&key.to_string());
            scene.world.api(0).put(&path, "v").await.assert_status(200);
        });
        join_all(puts).await;
        scene.world.wait_bucket_converged(&scene.bucket).await;
        for region in 0..REGIONS.len() {
            scene.wait_served(region).await;
        }
        scene
    }

    fn load(&self, args: &Args) -> PlainLoad {
        let (targets, work) = ([self.router.http()], LoadPattern::AllKeys(KEY_COUNT));
        PlainLoad::start(&targets, &self.bucket, args.clients, work, Some(args.rate))
    }

    async fn get(&self, host: &str) -> Option<HttpResponse> {
        let call = self.router.api().get(&self.bucket.key_path("0"));
        call.header("host", host).try_send().await.ok()
    }

    /// Returns the region that serves the global name.
    async fn global_region(&self) -> anyhow::Result<usize> {
        let answer = self.get("api.cloudkv.io").await.context("no response")?;
        let name = answer.find_header("x-cloudkv-region").unwrap_or_default();
        let region = REGIONS.iter().position(|other| *other == name);
        region.with_context(|| format!("no region in {answer:?}"))
    }

    async fn wait_served(&self, region: usize) {
        let host = format!("api.{}.cloudkv.io", REGIONS[region]);
        eventually(&format!("{host} is served"), SERVED_TIMEOUT, async || {
            let answer = self.get(&host).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Checks that the name of a lost region isn't served by another one.
    async fn check_refused(&self, region: usize) -> anyhow::Result<()> {
        let host = format!("api.{}.cloudkv.io", REGIONS[region]);
        let answer = self.get(&host).await.context("no response")?;
        ensure!(answer.status == 503, "{host} is served: {answer:?}");
        Ok(())
    }

    fn fail_region(&mut self, region: usize, is_frozen: bool) {
        for seat in self.world.seats(region) {
            if is_frozen {
                self.world.nodes[seat].pause();
            } else {
                self.world.kill(seat);
            }
        }
    }

    async fn restore_region(&mut self, region: usize, is_frozen: bool) {
        for seat in self.world.seats(region) {
            if is_frozen {
                self.world.nodes[seat].resume();
            } else {
                self.world.restart(seat).await;
            }
        }
        self.world.wait_serving(region).await;
        self.wait_served(region).await;
    }

    /// Writes to the global name; returns the time after which no write failed any more.
    async fn measure_outage(&self, round: u32) -> Duration {
        let started = Instant::now();
        let mut ticks = interval(WRITE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes = vec![];
        while started.elapsed() < WATCH_DURATION {
            ticks.tick().await;
            let path = self.bucket.key_path(&format!("r{round}-{}", writes.len()));
            let (router, sent) = (self.router.http(), started.elapsed());
            writes.push(tokio::spawn(async move {
                let request = RawRequest::new("PUT", &path).parse_body(b"v");
                let reply = NodeConnection::new(router, WRITE_TIMEOUT)
                    .exchange(&request)
                    .await;
                (
                    sent,
                    matches!(reply, ExchangeOutcome::Response(answer) if answer.status == 200),
                )
            }));
        }
        let writes = join_all(writes).await.into_iter();
        let failed = writes.filter_map(|write| match write {
            Ok((_, true)) => None,
            Ok((sent, false)) => Some(sent + WRITE_INTERVAL),
            Err(_) => Some(WATCH_DURATION),
        });
        failed.max().unwrap_or_default()
    }
}
