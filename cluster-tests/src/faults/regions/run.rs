//! A whole run over several regions: load, faults, and then the checks.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::field::Field;
use super::finish;
use super::load::Load;
use super::power;
use super::storm::Storm;
use super::upgrade;
use crate::faults::kind::{Counts, Kind};
use crate::faults::power::{Cut, Plan, SMALL};
use crate::faults::report::Report;
use crate::faults::run::message;
use crate::faults::schedule::Schedule;
use crate::harness::Bucket;
use crate::region::{Flow, RegionOptions, World};

/// The regions' names.
const NAMES: [&str; 3] = ["eu", "us", "ap"];

/// How far the first region is from the second, and how far both are from the third: what packets
/// take, and up to how much longer.
const NEAR: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(5));
const FAR: (Duration, Duration) = (Duration::from_millis(80), Duration::from_millis(10));

/// Of 1000 pieces between regions, how many are held up as if they were lost.
const LOST: u64 = 50;

/// How much longer than asked a run may take until every kind of fault has happened, and the region
/// that joins has joined.
const GRACE: Duration = Duration::from_secs(180);

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 1] = ["clock"];

/// What a run does.
#[derive(Clone, Debug)]
pub struct RegionsOptions {
    /// Decides the faults and what the clients do.
    pub seed: u64,
    /// How long there are faults.
    pub lasts: Duration,
    /// The kinds of faults.
    pub kinds: Vec<Kind>,
    /// Nodes of each region.
    pub each: usize,
    /// Shards.
    pub shards: u32,
    /// Clients of each node, and as many of each region's shared keys.
    pub clients: u32,
    /// Whether the third region joins when a third of the time is over.
    pub joins: bool,
    /// The build that all nodes begin with: they are rolled forward to this one, back and forward,
    /// and there are no faults.
    pub upgrades_from: Option<PathBuf>,
    /// Power losses, instead of other faults, in order; the run ends with the last of them.
    pub cuts: Vec<Cut>,
    /// Whether to say each 10 s how far it is, and each fault.
    pub talks: bool,
}

impl RegionsOptions {
    /// A run of this seed, with regions of so many nodes and all kinds of faults.
    pub fn new(seed: u64, lasts: Duration, each: usize) -> Self {
        let mut kinds = Kind::OF_REGIONS.to_vec();
        if each > 1 {
            kinds.extend(Kind::OF_LARGE_REGIONS);
        }
        Self {
            seed,
            lasts,
            kinds,
            each,
            shards: 4,
            clients: 2,
            joins: false,
            upgrades_from: None,
            cuts: vec![],
            talks: false,
        }
    }

    /// So many power losses of this seed, in regions of so many nodes.
    pub fn with_power(seed: u64, cuts: usize, each: usize) -> Self {
        let mut plan = Plan::of_regions(seed, NAMES.len(), each);
        Self {
            cuts: (0..cuts).map(|_| plan.next_cut()).collect(),
            ..Self::new(seed, Duration::ZERO, each)
        }
    }

    fn loses_power(&self) -> bool {
        !self.cuts.is_empty()
    }

    fn region(&self) -> RegionOptions {
        let args: &[&str] = if self.loses_power() { &SMALL } else { &[] };
        RegionOptions {
            seed: self.seed,
            shards: self.shards,
            binary: self.upgrades_from.clone(),
            power: self.loses_power(),
            args: args.iter().map(ToString::to_string).collect(),
            ..RegionOptions::default()
        }
    }

    fn say(&self, started: Instant, what: &str) {
        if self.talks {
            println!("{:7.1} s  {what}", started.elapsed().as_secs_f64());
        }
    }
}

/// What came of the faults.
#[derive(Default)]
pub(super) struct Harmed {
    counts: Counts,
    pub notes: Vec<String>,
    pub failures: Vec<String>,
    doomed: Vec<super::doomed::Doomed>,
    newest: Vec<Bucket>,
}

/// Carries out a run.
///
/// # Panics
/// When the regions don't start. What goes wrong later is in the report.
pub async fn run_regions(options: &RegionsOptions) -> Report {
    let first = if options.joins { 2 } else { NAMES.len() };
    let mut world = World::start_with(&NAMES, options.each, first, options.region()).await;
    world.expect_errors(&EXPECTED_ERRORS);
    if options.loses_power() {
        world.expect_disk_errors();
    }
    part(&world);
    let field = Field::start(&world, NAMES.len()).await;
    let own = world.api(0).bucket_with(&[("plan", "pro")]).await;
    let dir = world.dir().to_owned();
    let mut load = Load::new(&field, options.clients, options.seed, dir, own.clone());
    for _ in 0..first {
        load.add_region();
    }
    let started = Instant::now();
    let mut harmed = Harmed::default();
    let broken = {
        let work = async {
            match &options.upgrades_from {
                None if options.loses_power() => {
                    let say = |what: &str| options.say(started, what);
                    power::cut_all(&mut world, options, &field, &mut harmed, say).await;
                }
                None => harm(&mut world, options, &mut load, &mut harmed).await,
                Some(old) => {
                    let say = |what: &str| options.say(started, what);
                    let rolled = upgrade::roll(&mut world, old, options.lasts, &field, say);
                    harmed.notes.extend(rolled.await);
                }
            }
        };
        AssertUnwindSafe(work).catch_unwind().await
    };
    let lasted = started.elapsed();
    let mut failures: Vec<String> = broken
        .err()
        .map(|panic| message(&*panic))
        .into_iter()
        .collect();
    failures.append(&mut harmed.failures);
    let mut ended = load.stop().await;
    failures.append(&mut ended.failures);
    let mut notes = harmed.notes;
    if failures.is_empty() {
        let say = |what: &str| options.say(started, what);
        let own = std::iter::once(own).chain(harmed.newest).collect();
        let checks = finish::check(&mut world, &field, &mut ended, &harmed.doomed, own, say);
        match AssertUnwindSafe(checks).catch_unwind().await {
            Ok((more, mut wrong)) => {
                notes.extend(more);
                failures.append(&mut wrong);
            }
            Err(panic) => failures.push(message(&*panic)),
        }
    }
    for settler in &mut ended.settlers {
        failures.append(&mut settler.failures);
    }
    failures.extend(field.odd_answers());
    failures.extend(ended.odd_lists());
    failures.extend(world.unexpected_errors());
    failures.truncate(50);
    let kept = (!failures.is_empty()).then(|| {
        world.keep_files();
        // They are in the report.
        world.expect_errors(&[""]);
        world.dir().to_owned()
    });
    let tally = field.tally();
    let settled: u64 = ended.settlers.iter().map(|settler| settler.checked).sum();
    Report {
        seed: options.seed,
        lasted,
        calls: tally.total(),
        results: tally.to_string(),
        checked: settled,
        lists: ended.directory.lists,
        faults: harmed.counts,
        notes,
        failures,
        kept,
    }
}

/// Puts distances between the regions.
fn part(world: &World) {
    for one in 0..NAMES.len() {
        for other in (0..NAMES.len()).filter(|other| *other != one) {
            let (delay, jitter) = if one.max(other) == 2 { FAR } else { NEAR };
            let flow = Flow {
                delay,
                jitter,
                stalls: LOST,
                ..Flow::default()
            };
            for (from, to) in world.pairs(one, other) {
                world.network.usually(from, to, flow);
            }
        }
    }
}

/// Does harm until the time is over, every kind has happened, and all regions are there.
async fn harm(world: &mut World, options: &RegionsOptions, load: &mut Load, harmed: &mut Harmed) {
    let nodes = NAMES.len() * options.each;
    let mut schedule = Schedule::new(options.seed, &options.kinds, nodes, options.shards);
    let mut storm = Storm::new(world);
    let (started, mut talked) = (Instant::now(), Instant::now());
    let mut joining = Joining::new(options);
    loop {
        let elapsed = started.elapsed();
        joining.look(&mut storm, load, elapsed, harmed).await;
        let mut missing = storm.counts.missing(&options.kinds);
        let leaders = storm.leaders_in.len() == NAMES.len() && storm.counts.meta_leaders > 0;
        let enough = elapsed >= options.lasts && missing.is_empty() && leaders && joining.over();
        if enough || elapsed >= options.lasts + GRACE || load.field.stopped() {
            break;
        }
        missing.retain(|kind| joining.allows(*kind));
        let mut step = schedule.next(&missing);
        if !joining.allows(step.kind) {
            step.kind = Kind::RegionCut;
        }
        if options.talks {
            println!("{:7.1} s  {step:?}", elapsed.as_secs_f64());
        }
        storm.carry_out(&step).await;
        harmed.counts.clone_from(&storm.counts);
        harmed.doomed.clone_from(&storm.doomed);
        harmed.newest.clone_from(&storm.newest);
        if options.talks && talked.elapsed() >= Duration::from_secs(10) {
            talked = Instant::now();
            let elapsed = elapsed.as_secs_f64();
            println!("{elapsed:7.1} s  calls: {}", load.field.tally());
            println!("           faults: {}", harmed.counts);
        }
    }
    storm.heal();
    harmed.judge(options, &storm, &joining);
}

impl Harmed {
    /// What should have happened and didn't.
    fn judge(&mut self, options: &RegionsOptions, storm: &Storm<'_>, joining: &Joining) {
        let missing = storm.counts.missing(&options.kinds).into_iter();
        self.failures
            .extend(missing.map(|kind| format!("no {kind} happened")));
        if storm.counts.meta_leaders == 0 {
            self.failures
                .push("no leader of the metadata was hit".into());
        }
        for (region, name) in NAMES.iter().enumerate() {
            if !storm.leaders_in.contains(&region) {
                self.failures
                    .push(format!("no leader of a shard of {name} was hit"));
            }
        }
        if !joining.over() {
            self.failures.push("the third region didn't join".into());
        }
        let late: u64 = self.doomed.iter().map(|doomed| doomed.late).sum();
        if options.kinds.contains(&Kind::DropBucket) {
            self.notes.push(format!(
                "buckets deleted in a partition: {}, with {late} writes acknowledged after that",
                self.doomed.len()
            ));
            if late == 0 {
                self.failures
                    .push("no bucket was written after it was deleted".into());
            }
        }
    }
}

/// The third region, if it joins in the middle of the run.
struct Joining {
    /// When it is to begin; `None`: it has.
    due: Option<Duration>,
    began: Duration,
    serves: bool,
}

impl Joining {
    fn new(options: &RegionsOptions) -> Self {
        Self {
            due: options.joins.then_some(options.lasts / 3),
            began: Duration::ZERO,
            serves: !options.joins,
        }
    }

    fn over(&self) -> bool {
        self.serves
    }

    /// With two regions no clock is told from the other, and no metadata goes on without the
    /// first.
    fn allows(&self, kind: Kind) -> bool {
        self.serves || !matches!(kind, Kind::ClockJump | Kind::DropBucket)
    }

    /// Starts the region when it is time, and its clients when it serves.
    async fn look(
        &mut self,
        storm: &mut Storm<'_>,
        load: &mut Load,
        elapsed: Duration,
        harmed: &mut Harmed,
    ) {
        let region = NAMES.len() - 1;
        if self.due.is_some_and(|due| elapsed >= due) {
            self.due = None;
            self.began = elapsed;
            storm.world.start_region(region).await;
            return;
        }
        if self.due.is_some() || self.serves {
            return;
        }
        for seat in storm.world.seats(region) {
            if !storm.world.is_ready(seat).await {
                return;
            }
        }
        self.serves = true;
        load.add_region();
        let took = (elapsed - self.began).as_secs_f64();
        harmed.notes.push(format!(
            "{} joined within {took:.1} s, under faults",
            NAMES[region]
        ));
    }
}
