//! A region is lost, and the survivors go on without it.

use crate::propagation::changes;
use crate::record::Records;
use crate::region::{Mode, Region};
use crate::rules::Rules;
use crate::world::{Setup, World};

/// A step of the removal of a lost region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// A survivor refuses the lost region's streams from here.
    Fence { region: usize },
    /// A survivor sends its records of that origin past the other's cursor.
    Level { from: usize, to: usize },
    /// A survivor commits `SetPeers` without it.
    Remove { region: usize },
}

impl World {
    /// A region is gone for good. What it has sent may still arrive.
    pub fn lose(&mut self, region: usize) {
        self.left.regions_lost -= 1;
        self.lost = true;
        self.regions[region].mode = Mode::Lost;
        self.drop_left[region] = false;
    }

    /// What can happen next in the removal of a region.
    pub fn removals(&self, setup: &Setup, steps: &mut Vec<Removal>) {
        let Some(lost) = setup
            .loses
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
        let may_level = all_fenced || !setup.rules.fence_first;
        let pairs = || {
            let pairs = members
                .iter()
                .flat_map(|a| members.iter().map(move |b| (*a, *b)));
            pairs.filter(|(from, to)| lacks(from, to, lost, &setup.rules))
        };
        let level = pairs().next().is_none();
        for region in &members {
            let id = usize::from(region.id);
            if !fenced(region) {
                steps.push(Removal::Fence { region: id });
            } else if (may_level && level) || !setup.rules.level_first {
                steps.push(Removal::Remove { region: id });
            }
        }
        if may_level {
            steps.extend(pairs().map(|(from, to)| Removal::Level {
                from: usize::from(from.id),
                to: usize::from(to.id),
            }));
        }
    }

    /// Carries out a step of the removal.
    pub fn remove(&mut self, step: Removal, setup: &Setup) {
        let Some(lost) = setup.loses else {
            return;
        };
        match step {
            Removal::Fence { region } => {
                if let Some(peer) = &mut self.regions[region].peers[lost] {
                    peer.fenced = true;
                }
            }
            Removal::Level { from, to } => self.level(lost, from, to, setup),
            Removal::Remove { region } => {
                self.regions[region].peers[lost] = None;
                self.regions[region].clean_index(&setup.rules);
            }
        }
    }

    fn level(&mut self, lost: usize, from: usize, to: usize, setup: &Setup) {
        let records = above_watermark(&self.regions[from], &self.regions[to], lost);
        // Neither cursor nor watermark moves: what is passed on may come late, or twice.
        for (key, record) in changes(&records) {
            self.regions[to].take_in(key, record, &setup.rules);
        }
    }
}

fn cursor(region: &Region, lost: usize) -> u8 {
    region.peers[lost].map_or(0, |peer| peer.cursor)
}

/// What one survivor holds of the lost region's above another one's watermark: what another one has of
/// the history up to its cursor leaves out what was overwritten before it was sent.
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

/// Whether one survivor has something to send to another one.
fn lacks(from: &Region, to: &Region, lost: usize, rules: &Rules) -> bool {
    let records = above_watermark(from, to, lost);
    let newer = changes(&records).any(|(key, record)| {
        !to.refuses(key) && to.records[key].map(|r| r.rank()) < Some(record.rank())
    });
    newer && (rules.level_each_way || cursor(to, lost) < cursor(from, lost))
}
