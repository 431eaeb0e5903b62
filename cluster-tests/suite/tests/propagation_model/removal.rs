//! A region is lost, and the survivors reconcile and remove it.

use crate::propagation::changes;
use crate::record::Records;
use crate::region::{Mode, Region};
use crate::rules::Rules;
use crate::world::{Setup, World};

/// A step of the removal of a lost region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RemovalStep {
    /// A survivor refuses the lost region's streams from here on.
    Fence { region: usize },
    /// A survivor sends its records of that origin above the other one's watermark.
    Reconcile { from: usize, to: usize },
    /// A survivor commits `SetPeers` without it.
    Remove { region: usize },
}

impl World {
    /// Loses a region for good. Messages that it has sent may still arrive.
    pub(crate) fn lose_region(&mut self, region: usize) {
        self.remaining.region_losses -= 1;
        self.has_lost_region = true;
        self.regions[region].mode = Mode::Lost;
        self.pending_drops[region] = false;
    }

    /// Adds the possible next steps of a removal.
    pub(crate) fn removal_steps(&self, setup: &Setup, steps: &mut Vec<RemovalStep>) {
        let Some(lost) = setup
            .lost_region
            .filter(|id| self.regions[*id].mode == Mode::Lost)
        else {
            return;
        };
        if self.join.is_under_way() {
            return;
        }
        let knows = |region: &&Region| region.peers[lost].is_some();
        let members: Vec<&Region> = self.members().filter(knows).collect();
        let fenced = |region: &Region| region.peers[lost].is_some_and(|peer| peer.fenced);
        let all_fenced = members.iter().all(|region| fenced(region));
        let can_reconcile = all_fenced || !setup.rules.fence_first;
        let pairs = || {
            let pairs = members
                .iter()
                .flat_map(|a| members.iter().map(move |b| (*a, *b)));
            pairs.filter(|(from, to)| needs_reconcile(from, to, lost, &setup.rules))
        };
        let is_reconciled = pairs().next().is_none();
        for region in &members {
            let id = usize::from(region.id);
            if !fenced(region) {
                steps.push(RemovalStep::Fence { region: id });
            } else if (can_reconcile && is_reconciled) || !setup.rules.reconcile_first {
                steps.push(RemovalStep::Remove { region: id });
            }
        }
        if can_reconcile {
            steps.extend(pairs().map(|(from, to)| RemovalStep::Reconcile {
                from: usize::from(from.id),
                to: usize::from(to.id),
            }));
        }
    }

    /// Applies a step of the removal.
    pub(crate) fn apply_removal_step(&mut self, step: RemovalStep, setup: &Setup) {
        let Some(lost) = setup.lost_region else {
            return;
        };
        match step {
            RemovalStep::Fence { region } => {
                if let Some(peer) = &mut self.regions[region].peers[lost] {
                    peer.fenced = true;
                }
            }
            RemovalStep::Reconcile { from, to } => self.reconcile(lost, from, to, setup),
            RemovalStep::Remove { region } => {
                self.regions[region].peers[lost] = None;
                self.regions[region].clean_index(&setup.rules);
            }
        }
    }

    fn reconcile(&mut self, lost: usize, from: usize, to: usize, setup: &Setup) {
        let records = above_watermark(&self.regions[from], &self.regions[to], lost);
        // Neither cursor nor watermark moves: these records may arrive late, or twice.
        for (key, record) in changes(&records) {
            self.regions[to].merge_record(key, record, &setup.rules);
        }
    }
}

fn cursor(region: &Region, lost: usize) -> u8 {
    region.peers[lost].map_or(0, |peer| peer.cursor)
}

/// Returns one survivor's records of the lost region above another one's watermark. The cursor is
/// no bound: the history up to it leaves out changes that were overwritten before they were sent.
fn above_watermark(from: &Region, to: &Region, lost: usize) -> Records {
    let incarnation = from.peers[lost].map_or(0, |peer| peer.incarnation);
    let watermark = to.peers[lost].map_or(0, |peer| peer.watermark);
    from.records.map(|record| {
        record.filter(|record| {
            usize::from(record.version.region) == lost
                && record.incarnation == incarnation
                && record.version.time > watermark
        })
    })
}

/// Returns whether one survivor has records to send to another one.
fn needs_reconcile(from: &Region, to: &Region, lost: usize, rules: &Rules) -> bool {
    let records = above_watermark(from, to, lost);
    let has_newer = changes(&records).any(|(key, record)| {
        !to.refuses(key) && to.records[key].map(|r| r.rank()) < Some(record.rank())
    });
    has_newer && (rules.reconcile_both_ways || cursor(to, lost) < cursor(from, lost))
}
