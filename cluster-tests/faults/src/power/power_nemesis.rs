//! Carries out power losses, one after the other, and has nodes started again.

use std::fmt;
use std::time::{Duration, Instant};

use super::disk_failure::{DiskFailure, FailingCalls};
use super::plan::PowerLoss;
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::power::DiskFaults;
use cloudkv_test_harness::region::Region;

/// Time for regions to be healthy after a power loss.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two checks of that.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time for nodes with healthy disks to answer while a minority's disks fail.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of answered calls that show it.
const PROGRESS_CALLS: u64 = 20;

/// Number of power losses and disk failures in a run, by kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct PowerLossCounts {
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
    exits: u64,
    files: usize,
    names: usize,
}

impl PowerLossCounts {
    /// Returns the number of power losses.
    fn total(&self) -> u64 {
        self.none + self.one + self.several + self.regions + self.all
    }

    /// Returns a failure if there were fewer power losses than planned.
    pub(crate) fn missing(&self, planned: usize) -> Option<String> {
        let total = self.total();
        (total < planned as u64).then(|| format!("{total} power losses, and not {planned}"))
    }

    fn count(&mut self, power_loss: &PowerLoss, nodes: usize, nodes_per_region: usize) {
        let counter = match power_loss.seats.len() {
            0 => &mut self.none,
            count if count == nodes => &mut self.all,
            count if count % nodes_per_region == 0 => &mut self.regions,
            1 => &mut self.one,
            _ => &mut self.several,
        };
        *counter += 1;
        let Some(failure) = &power_loss.failure else {
            return;
        };
        let counter = match failure.calls {
            FailingCalls::Reads => &mut self.reads,
            FailingCalls::Writes => &mut self.writes,
            FailingCalls::Syncs => &mut self.syncs,
            FailingCalls::Full => &mut self.full,
        };
        *counter += 1;
    }
}

impl fmt::Display for PowerLossCounts {
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
            self.reads, self.writes, self.syncs, self.full, self.exits
        )
    }
}

/// Cuts the power of nodes of one region, or of several regions.
pub(crate) struct PowerNemesis<'a, Answered> {
    region: &'a mut Region,
    /// Number of nodes in each region.
    nodes_per_region: usize,
    /// Returns the number of the load's calls that were answered so far.
    answered_calls: Answered,
    pub counts: PowerLossCounts,
}

impl<'a, Answered: Fn() -> u64> PowerNemesis<'a, Answered> {
    /// Creates a nemesis for these nodes.
    pub(crate) fn new(
        region: &'a mut Region,
        nodes_per_region: usize,
        answered_calls: Answered,
    ) -> Self {
        Self {
            region,
            nodes_per_region,
            answered_calls,
            counts: PowerLossCounts::default(),
        }
    }

    /// Carries out a power loss; all nodes were started before and after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited without permission or a clear error.
    pub(crate) async fn carry_out(&mut self, power_loss: &PowerLoss) {
        self.set_disk_faults(power_loss, None);
        tokio::time::sleep(power_loss.load_duration).await;
        if let Some(seat) = power_loss.killed_first {
            self.region.kill(seat);
            self.region.restart(seat).await;
            tokio::time::sleep(power_loss.delay_after_start).await;
            self.counts.killed_before += 1;
        }
        if let Some(failure) = &power_loss.failure {
            self.fail_disks(power_loss, failure).await;
        }
        self.cut_power(power_loss).await;
        self.counts
            .count(power_loss, self.region.nodes.len(), self.nodes_per_region);
        self.clear_disk_faults();
        self.start_exited(false).await;
        if power_loss.waits_until_healthy {
            self.heal().await;
        }
    }

    fn set_disk_faults(&mut self, power_loss: &PowerLoss, failure: Option<&DiskFailure>) {
        for (seat, member) in self.region.nodes.iter_mut().enumerate() {
            let mut faults = DiskFaults::default();
            if power_loss.slow_nodes.contains(&seat) {
                faults.slow_syncs = power_loss.slow_area;
                faults.sync_delay = power_loss.sync_delay;
            }
            if let Some(failure) = failure.filter(|it| it.seats.contains(&seat)) {
                faults = failure.add_to(seat, faults);
                member.allow_exit();
            }
            member.disk().set_faults(faults);
        }
    }

    /// Ends all disk faults.
    pub(crate) fn clear_disk_faults(&self) {
        for member in &self.region.nodes {
            member.disk().set_faults(DiskFaults::default());
        }
    }

    /// Lets disks fail; nodes that exit because of it are started once the disks work again.
    async fn fail_disks(&mut self, power_loss: &PowerLoss, failure: &DiskFailure) {
        self.set_disk_faults(power_loss, Some(failure));
        tokio::time::sleep(failure.duration).await;
        let is_fast = |seat: &&usize| !power_loss.slow_nodes.contains(seat);
        let failing = power_loss.slow_nodes.len() + failure.seats.iter().filter(is_fast).count();
        if failing <= (self.nodes_per_region - 1) / 2 {
            let before = (self.answered_calls)();
            eventually("the other nodes go on", PROGRESS_TIMEOUT, async || {
                ((self.answered_calls)() >= before + PROGRESS_CALLS).then_some(())
            })
            .await;
        }
        self.set_disk_faults(power_loss, None);
        if failure.restarts_before_loss {
            self.start_exited(failure.evicts_pages).await;
            tokio::time::sleep(failure.delay_after_start).await;
        }
    }

    async fn cut_power(&mut self, power_loss: &PowerLoss) {
        self.record_exits().await;
        self.region.power_off(&power_loss.seats);
        tokio::time::sleep(power_loss.off_time).await;
        for (at, seat) in power_loss.seats.iter().enumerate() {
            let losses = self
                .region
                .power_on(*seat, power_loss.seed.wrapping_add(at as u64));
            self.counts.files += losses.files;
            self.counts.names += losses.names;
        }
        let Some((last, others)) = power_loss.seats.split_last() else {
            return;
        };
        for seat in others {
            self.region.nodes[*seat].start();
        }
        tokio::time::sleep(power_loss.last_start_delay).await;
        self.region.nodes[*last].start();
        for seat in &power_loss.seats {
            self.region.wait_listening(*seat).await;
        }
    }

    /// Counts the nodes that have exited by themselves, and checks that they said why.
    async fn record_exits(&mut self) {
        for (seat, status) in self.region.take_allowed_exits().await {
            self.counts.exits += 1;
            if let Err(reason) = self.region.nodes[seat].check_exit(status) {
                panic!("{reason}");
            }
        }
    }

    /// Starts nodes that have exited by themselves.
    async fn start_exited(&mut self, evicts: bool) {
        self.record_exits().await;
        let all = 0..self.region.nodes.len();
        let exited: Vec<usize> = all
            .filter(|seat| !self.region.nodes[*seat].is_running())
            .collect();
        for seat in &exited {
            if evicts {
                let result = self.region.nodes[*seat].disk().evict();
                result.expect("evict the pages of a disk");
            }
            self.region.nodes[*seat].start();
        }
        for seat in exited {
            self.region.wait_listening(seat).await;
        }
    }

    /// Waits until all nodes and groups are healthy: nodes whose disks have failed may exit
    /// meanwhile.
    pub(crate) async fn heal(&mut self) {
        self.clear_disk_faults();
        let deadline = Instant::now() + HEALTHY_TIMEOUT;
        loop {
            self.start_exited(false).await;
            let exits = self.region.unexpected_exits();
            assert!(exits.is_empty(), "{}", exits.join("\n"));
            let is_single_region = self.nodes_per_region == self.region.nodes.len();
            let problem = if is_single_region {
                self.region.formation_problem().await
            } else {
                self.region.unready_node().await
            };
            let Some(reason) = problem else { return };
            assert!(
                Instant::now() < deadline,
                "not healthy within {HEALTHY_TIMEOUT:?}: {reason}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
