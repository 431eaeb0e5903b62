//! Carries out power losses, one after the other, and has nodes started again.

use std::fmt;
use std::time::{Duration, Instant};

use super::failure::{DiskFailure, FailingCalls};
use super::plan::Cut;
use crate::harness::eventually;
use crate::power::Trouble;
use crate::region::Region;

/// Time for regions to be whole after a cut.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks at that.
const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// Time for the nodes whose disks are well to answer while a minority's fail.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// Answered calls that show that they do.
const ANSWERS: u64 = 20;

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub(in crate::faults) struct Tally {
    none: u64,
    one: u64,
    several: u64,
    regions: u64,
    all: u64,
    killed_before: u64,
    /// Failures of disks, by the calls that failed.
    reads: u64,
    writes: u64,
    syncs: u64,
    full: u64,
    /// Nodes that ended by themselves after that.
    ended: u64,
    files: usize,
    names: usize,
}

impl Tally {
    /// Number of cuts.
    pub fn total(&self) -> u64 {
        self.none + self.one + self.several + self.regions + self.all
    }

    fn count(&mut self, cut: &Cut, nodes: usize, each: usize) {
        let counter = match cut.seats.len() {
            0 => &mut self.none,
            count if count == nodes => &mut self.all,
            count if count % each == 0 => &mut self.regions,
            1 => &mut self.one,
            _ => &mut self.several,
        };
        *counter += 1;
        let Some(failure) = &cut.failure else { return };
        let counter = match failure.calls {
            FailingCalls::Reads => &mut self.reads,
            FailingCalls::Writes => &mut self.writes,
            FailingCalls::Syncs => &mut self.syncs,
            FailingCalls::Full => &mut self.full,
        };
        *counter += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "power losses: {}: {} of one node, {} of several, {} of whole regions, {} of all; {} \
             times only slow disks; {} kills before; {} files with unsynced writes; {} changes of \
             names lost",
            self.total() - self.none,
            self.one,
            self.several,
            self.regions,
            self.all,
            self.none,
            self.killed_before,
            self.files,
            self.names
        )?;
        write!(
            f,
            "failures of disks before: {} of reads, {} of writes, {} of syncs, {} full; {} nodes \
             ended by themselves",
            self.reads, self.writes, self.syncs, self.full, self.ended
        )
    }
}

/// Cuts the power of a region's nodes, or of those of several regions.
pub(in crate::faults) struct Cutter<'a, Answered> {
    region: &'a mut Region,
    /// Nodes of each region.
    each: usize,
    /// Number of the load's calls that were answered so far.
    answered: Answered,
    pub tally: Tally,
}

impl<'a, Answered: Fn() -> u64> Cutter<'a, Answered> {
    /// Nothing happened yet.
    pub fn new(region: &'a mut Region, each: usize, answered: Answered) -> Self {
        Self {
            region,
            each,
            answered,
            tally: Tally::default(),
        }
    }

    /// Carries out what a cut says; all nodes were started before and after.
    ///
    /// # Panics
    /// When a node doesn't come back, has ended without being allowed to, or doesn't say why.
    pub async fn carry_out(&mut self, cut: &Cut) {
        self.set_troubles(cut, None);
        tokio::time::sleep(cut.load).await;
        if let Some(seat) = cut.killed {
            self.region.kill(seat);
            self.region.restart(seat).await;
            tokio::time::sleep(cut.after_start).await;
            self.tally.killed_before += 1;
        }
        if let Some(failure) = &cut.failure {
            self.fail(cut, failure).await;
        }
        self.cut_power(cut).await;
        self.tally.count(cut, self.region.members.len(), self.each);
        self.end_troubles();
        self.start_ended(false).await;
        if cut.heals {
            self.heal().await;
        }
    }

    fn set_troubles(&mut self, cut: &Cut, failure: Option<&DiskFailure>) {
        for (seat, member) in self.region.members.iter_mut().enumerate() {
            let mut trouble = Trouble::default();
            if cut.slow.contains(&seat) {
                trouble.slow = cut.slow_area;
                trouble.sync_delay = cut.sync_delay;
            }
            if let Some(failure) = failure.filter(|it| it.seats.contains(&seat)) {
                trouble = failure.of_seat(seat, trouble);
                member.allow_end();
            }
            member.disk().set_trouble(trouble);
        }
    }

    /// All disks are well from here on.
    pub fn end_troubles(&self) {
        for member in &self.region.members {
            member.disk().set_trouble(Trouble::default());
        }
    }

    /// Lets disks fail; nodes that end by it are started when they are well again.
    async fn fail(&mut self, cut: &Cut, failure: &DiskFailure) {
        self.set_troubles(cut, Some(failure));
        tokio::time::sleep(failure.lasts).await;
        let is_fast = |seat: &&usize| !cut.slow.contains(seat);
        let ill = cut.slow.len() + failure.seats.iter().filter(is_fast).count();
        if ill <= (self.each - 1) / 2 {
            let before = (self.answered)();
            eventually("the other nodes go on", GOES_ON_WITHIN, async || {
                ((self.answered)() >= before + ANSWERS).then_some(())
            })
            .await;
        }
        self.set_troubles(cut, None);
        if failure.restarts {
            self.start_ended(failure.evicts).await;
            tokio::time::sleep(failure.after_start).await;
        }
    }

    async fn cut_power(&mut self, cut: &Cut) {
        self.take_ends().await;
        self.region.power_off(&cut.seats);
        tokio::time::sleep(cut.dark).await;
        for (at, seat) in cut.seats.iter().enumerate() {
            let losses = self
                .region
                .power_on(*seat, cut.detail.wrapping_add(at as u64));
            self.tally.files += losses.files;
            self.tally.names += losses.names;
        }
        let Some((last, others)) = cut.seats.split_last() else {
            return;
        };
        for seat in others {
            self.region.members[*seat].start();
        }
        tokio::time::sleep(cut.held_back).await;
        self.region.members[*last].start();
        for seat in &cut.seats {
            self.region.wait_listening(*seat).await;
        }
    }

    /// Notes which nodes have ended by themselves.
    async fn take_ends(&mut self) {
        for (seat, status) in self.region.take_allowed_ends().await {
            self.tally.ended += 1;
            if let Err(why) = self.region.members[seat].judge_end(status) {
                panic!("{why}");
            }
        }
    }

    /// Starts nodes that have ended by themselves.
    async fn start_ended(&mut self, evicts: bool) {
        self.take_ends().await;
        let all = 0..self.region.members.len();
        let ended: Vec<usize> = all
            .filter(|seat| !self.region.members[*seat].runs())
            .collect();
        for seat in &ended {
            if evicts {
                let evicted = self.region.members[*seat].disk().evict();
                evicted.expect("evict the pages of a disk");
            }
            self.region.members[*seat].start();
        }
        for seat in ended {
            self.region.wait_listening(seat).await;
        }
    }

    /// Waits until all is well again: nodes whose disks have failed may end meanwhile.
    pub async fn heal(&mut self) {
        self.end_troubles();
        let until = Instant::now() + WHOLE_WITHIN;
        loop {
            self.start_ended(false).await;
            let ended = self.region.unexpected_ends();
            assert!(ended.is_empty(), "{}", ended.join("\n"));
            let is_one = self.each == self.region.members.len();
            let missing = if is_one {
                self.region.unformed().await
            } else {
                self.region.unready().await
            };
            let Some(why) = missing else { return };
            assert!(
                Instant::now() < until,
                "not whole within {WHOLE_WITHIN:?}: {why}"
            );
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }
}
