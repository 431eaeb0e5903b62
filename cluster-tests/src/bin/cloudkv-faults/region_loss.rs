//! Loss of the region that a router's global name stands for: how long until all requests by that
//! name are answered again, and what did it cost?

use std::time::Duration;

use anyhow::{Context, ensure};
use cloudkv_cluster_tests::faults::{Line, PlainLoad, Reply, Work};
use cloudkv_cluster_tests::region::{RegionOptions, World};
use cloudkv_cluster_tests::{Answer, Bucket, RawRequest, Router, eventually};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const SOON: Duration = Duration::from_secs(120);
/// Keys that the load reads and writes.
const KEYS: u64 = 256;
/// Between two writes that are watched; what is measured is as exact as this.
const EVERY: Duration = Duration::from_millis(10);
/// How long they are watched after the loss.
const WATCHED: Duration = Duration::from_secs(5);
/// A write that takes longer than this isn't one that goes on.
const PATIENCE: Duration = Duration::from_secs(1);
/// The promise.
const WORST: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How often a region is lost
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Nodes of each of the three regions
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Clients of the router
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests a second, all clients together, half of them writes
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Let the region's nodes stand still, as if no packet reached them, in place of killing them
    #[arg(long)]
    still: bool,
}

struct Scene {
    world: World,
    router: Router,
    bucket: Bucket,
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let mut scene = Scene::start(args).await;
    let (mut times, mut requests, mut unknown) = (vec![], 0, 0);
    for round in 1..=args.rounds {
        let lost = scene.current().await?;
        let load = scene.load(args);
        load.goes_on(500).await;
        scene.lose(lost, args.still);
        let after = scene.watch(round).await;
        scene.check_refused(lost).await?;
        scene.regain(lost, args.still).await;
        let outcome = load.stop().await;
        println!(
            "{round:3}: {}: the global name goes on after {} ms; {} requests, {} of unknown outcome, {} other errors",
            REGIONS[lost],
            after.as_millis(),
            outcome.requests,
            outcome.unknown,
            outcome.errors - outcome.unknown
        );
        for error in outcome
            .shown
            .iter()
            .filter(|_| outcome.errors > outcome.unknown)
        {
            println!("     {error}");
        }
        times.push(after);
        requests += outcome.requests;
        unknown += outcome.unknown;
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "a region lost {} times: the global name went on after {} ms in the median, {} ms at worst; {requests} requests, {unknown} writes of unknown outcome",
        times.len(),
        median.as_millis(),
        worst.as_millis()
    );
    ensure!(worst <= WORST, "more than {WORST:?}");
    Ok(())
}

impl Scene {
    async fn start(args: &Args) -> Self {
        let world = World::start_with(&REGIONS, args.nodes, 3, RegionOptions::default()).await;
        let seats = world.running().into_iter();
        let seeds: Vec<_> = seats.map(|seat| world.seat(seat).rpc()).collect();
        let router = Router::start_with(&seeds, &["--region", REGIONS[0]]).await;
        let bucket = world.api(0).bucket_with(&[("plan", "pro")]).await;
        let scene = Self {
            world,
            router,
            bucket,
        };
        let puts = (0..KEYS).map(async |key| {
            let path = scene.bucket.key(&key.to_string());
            scene.world.api(0).put(&path, "v").await.status(200);
        });
        join_all(puts).await;
        scene.world.wait_equal(&scene.bucket).await;
        for region in 0..REGIONS.len() {
            scene.wait_served(region).await;
        }
        scene
    }

    fn load(&self, args: &Args) -> PlainLoad {
        let (to, work) = ([self.router.http()], Work::AllKeys(KEYS));
        PlainLoad::start(&to, &self.bucket, args.clients, work, Some(args.rate))
    }

    async fn ask(&self, host: &str) -> Option<Answer> {
        let call = self.router.api().get(&self.bucket.key("0"));
        call.header("host", host).try_send().await.ok()
    }

    /// The region of the global name.
    async fn current(&self) -> anyhow::Result<usize> {
        let answer = self.ask("api.cloudkv.io").await.context("no answer")?;
        let name = answer.find_header("x-cloudkv-region").unwrap_or_default();
        let found = REGIONS.iter().position(|region| *region == name);
        found.with_context(|| format!("no region in {answer:?}"))
    }

    async fn wait_served(&self, region: usize) {
        let host = format!("api.{}.cloudkv.io", REGIONS[region]);
        eventually(&format!("{host} is served"), SOON, async || {
            let answer = self.ask(&host).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// The name of a region that is lost stands for that one only.
    async fn check_refused(&self, region: usize) -> anyhow::Result<()> {
        let host = format!("api.{}.cloudkv.io", REGIONS[region]);
        let answer = self.ask(&host).await.context("no answer")?;
        ensure!(answer.status == 503, "{host} is answered: {answer:?}");
        Ok(())
    }

    fn lose(&mut self, region: usize, still: bool) {
        for seat in self.world.seats(region) {
            if still {
                self.world.members[seat].pause();
            } else {
                self.world.kill(seat);
            }
        }
    }

    async fn regain(&mut self, region: usize, still: bool) {
        for seat in self.world.seats(region) {
            if still {
                self.world.members[seat].resume();
            } else {
                self.world.restart(seat).await;
            }
        }
        self.world.wait_serving(region).await;
        self.wait_served(region).await;
    }

    /// Writes by the global name; tells when the first of those was sent that nothing went wrong
    /// with any more.
    async fn watch(&self, round: u32) -> Duration {
        let began = Instant::now();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writes = vec![];
        while began.elapsed() < WATCHED {
            ticks.tick().await;
            let path = self.bucket.key(&format!("r{round}-{}", writes.len()));
            let (to, sent) = (self.router.http(), began.elapsed());
            writes.push(tokio::spawn(async move {
                let request = RawRequest::new("PUT", &path).body(b"v");
                let reply = Line::new(to, PATIENCE).exchange(&request).await;
                (
                    sent,
                    matches!(reply, Reply::Answer(answer) if answer.status == 200),
                )
            }));
        }
        let writes = join_all(writes).await.into_iter();
        let failed = writes.filter_map(|write| match write {
            Ok((_, true)) => None,
            Ok((sent, false)) => Some(sent + EVERY),
            Err(_) => Some(WATCHED),
        });
        failed.max().unwrap_or_default()
    }
}
