//! Carries out power losses, one after the other, and has nodes started again.

use std::fmt;
use std::time::{Duration, Instant};

use super::failure::{DiskFailure, FailingCalls};
use super::plan::Cut;
use crate::harness::eventually;
use crate::power::Trouble;
use crate::region::Region;

/// Time for regions to be healthy after a power loss.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// Time between two checks of that.
const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// Time for nodes with healthy disks to answer while a minority's disks fail.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);
/// Number of answered calls that show it.
const ANSWERS: u64 = 20;

/// Number of power losses and disk failures in a run, by kind.
#[derive(Clone, Debug, Default)]
pub(in crate::faults) struct Tally {
    none: u64,
    one: u64,
    several: u64,
    regions: u64,
    all: u64,
    killed_before: u64,
    /// Disk failures, by the calls that failed.
    reads: u64,
    writes: u64,
    syncs: u64,
    full: u64,
    /// Nodes that exited by themselves after that.
    ended: u64,
    files: usize,
    names: usize,
}

impl Tally {
    /// Returns the number of power losses.
    pub fn total(&self) -> u64 {
        self.none + self.one + self.several + self.regions + self.all
    }

    fn count(&mut self, power_loss: &Cut, nodes: usize, nodes_per_region: usize) {
        let counter = match power_loss.seats.len() {
            0 => &mut self.none,
            count if count == nodes => &mut self.all,
            count if count % nodes_per_region == 0 => &mut self.regions,
            1 => &mut self.one,
            _ => &mut self.several,
        };
        *counter += 1;
        let Some(failure) = &power_loss.failure else { return };
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

/// Cuts the power of nodes of one region, or of several regions.
pub(in crate::faults) struct Cutter<'a, Answered> {
    region: &'a mut Region,
    /// Number of nodes in each region.
    each: usize,
    /// Returns the number of the load's calls that were answered so far.
    answered: Answered,
    pub tally: Tally,
}

impl<'a, Answered: Fn() -> u64> Cutter<'a, Answered> {
    /// Creates a nemesis for these nodes.
    pub fn new(region: &'a mut Region, each: usize, answered: Answered) -> Self {
        Self {
            region,
            each,
            answered,
            tally: Tally::default(),
        }
    }

    /// Carries out a power loss; all nodes were started before and after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited without permission or a clear error.
    pub async fn carry_out(&mut self, power_loss: &Cut) {
        self.set_troubles(power_loss, None);
        tokio::time::sleep(power_loss.load).await;
        if let Some(seat) = power_loss.killed {
            self.region.kill(seat);
            self.region.restart(seat).await;
            tokio::time::sleep(power_loss.after_start).await;
            self.tally.killed_before += 1;
        }
        if let Some(failure) = &power_loss.failure {
            self.fail(power_loss, failure).await;
        }
        self.cut_power(power_loss).await;
        self.tally.count(power_loss, self.region.members.len(), self.each);
        self.end_troubles();
        self.start_ended(false).await;
        if power_loss.heals {
            self.heal().await;
        }
    }

    fn set_troubles(&mut self, power_loss: &Cut, failure: Option<&DiskFailure>) {
        for (seat, member) in self.region.members.iter_mut().enumerate() {
            let mut faults = Trouble::default();
            if power_loss.slow.contains(&seat) {
                faults.slow = power_loss.slow_area;
                faults.sync_delay = power_loss.sync_delay;
            }
            if let Some(failure) = failure.filter(|it| it.seats.contains(&seat)) {
                faults = failure.of_seat(seat, faults);
                member.allow_end();
            }
            member.disk().set_trouble(faults);
        }
    }

    /// Ends all disk faults.
    pub fn end_troubles(&self) {
        for member in &self.region.members {
            member.disk().set_trouble(Trouble::default());
        }
    }

    /// Lets disks fail; nodes that exit because of it are started once the disks work again.
    async fn fail(&mut self, power_loss: &Cut, failure: &DiskFailure) {
        self.set_troubles(power_loss, Some(failure));
        tokio::time::sleep(failure.lasts).await;
        let is_fast = |seat: &&usize| !power_loss.slow.contains(seat);
        let failing = power_loss.slow.len() + failure.seats.iter().filter(is_fast).count();
        if failing <= (self.each - 1) / 2 {
            let before = (self.answered)();
            eventually("the other nodes go on", GOES_ON_WITHIN, async || {
                ((self.answered)() >= before + ANSWERS).then_some(())
            })
            .await;
        }
        self.set_troubles(power_loss, None);
        if failure.restarts {
            self.start_ended(failure.evicts).await;
            tokio::time::sleep(failure.after_start).await;
        }
    }

    async fn cut_power(&mut self, power_loss: &Cut) {
        self.take_ends().await;
        self.region.power_off(&power_loss.seats);
        tokio::time::sleep(power_loss.dark).await;
        for (at, seat) in power_loss.seats.iter().enumerate() {
            let losses = self
                .region
                .power_on(*seat, power_loss.detail.wrapping_add(at as u64));
            self.tally.files += losses.files;
            self.tally.names += losses.names;
        }
        let Some((last, others)) = power_loss.seats.split_last() else {
            return;
        };
        for seat in others {
            self.region.members[*seat].start();
        }
        tokio::time::sleep(power_loss.held_back).await;
        self.region.members[*last].start();
        for seat in &power_loss.seats {
            self.region.wait_listening(*seat).await;
        }
    }

    /// Counts the nodes that have exited by themselves, and checks that they said why.
    async fn take_ends(&mut self) {
        for (seat, status) in self.region.take_allowed_ends().await {
            self.tally.ended += 1;
            if let Err(reason) = self.region.members[seat].judge_end(status) {
                panic!("{reason}");
            }
        }
    }

    /// Starts nodes that have exited by themselves.
    async fn start_ended(&mut self, evicts: bool) {
        self.take_ends().await;
        let all = 0..self.region.members.len();
        let exited: Vec<usize> = all
            .filter(|seat| !self.region.members[*seat].runs())
            .collect();
        for seat in &exited {
            if evicts {
                let result = self.region.members[*seat].disk().evict();
                result.expect("evict the pages of a disk");
            }
            self.region.members[*seat].start();
        }
        for seat in exited {
            self.region.wait_listening(seat).await;
        }
    }

    /// Waits until all nodes and groups are healthy: nodes whose disks have failed may exit
    /// meanwhile.
    pub async fn heal(&mut self) {
        self.end_troubles();
        let deadline = Instant::now() + WHOLE_WITHIN;
        loop {
            self.start_ended(false).await;
            let exits = self.region.unexpected_ends();
            assert!(exits.is_empty(), "{}", exits.join("\n"));
            let is_single_region = self.each == self.region.members.len();
            let problem = if is_single_region {
                self.region.unformed().await
            } else {
                self.region.unready().await
            };
            let Some(reason) = problem else { return };
            assert!(
                Instant::now() < deadline,
                "not healthy within {WHOLE_WITHIN:?}: {reason}"
            );
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    }
}
