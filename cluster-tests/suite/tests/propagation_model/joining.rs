//! A region joins, or joins again after it was lost.

use crate::propagation::changes;
use crate::record::{MAX_KEYS, Records};
use crate::region::{Mode, Peer, Region};
use crate::rules::Rules;
use crate::world::{Setup, World};

/// Progress of the newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Waiting,
    /// The regions commit `SetPeers`.
    Preparing,
    /// The donor's view is copied.
    Copying,
    Done,
}

/// The join of the one newcomer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Join {
    pub phase: Phase,
    pub donor: usize,
    /// The donor's records when the view was taken.
    pub view: Records,
    /// Keys that are not copied yet.
    pub uncopied: [bool; MAX_KEYS],
    /// The highest last version that a region has returned.
    pub max_last_version: u8,
}

impl Default for Join {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting,
            donor: 0,
            view: [None; MAX_KEYS],
            uncopied: [false; MAX_KEYS],
            max_last_version: 0,
        }
    }
}

impl Join {
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Preparing | Phase::Copying)
    }
}

/// A step of the join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JoinStep {
    /// A region commits `SetPeers` with the newcomer.
    SetPeers { region: usize },
    /// The donor's view is taken, with its cursors.
    TakeView { donor: usize },
    /// A key is copied, from the view or from the donor's current state.
    Copy { key: usize, view: bool },
    /// The bulk copy breaks, the newcomer is emptied, and another view will be taken.
    Abort,
    /// The bulk copy has ended: the newcomer serves.
    Serve,
}

impl World {
    /// Adds the possible next steps of the join.
    pub(crate) fn join_steps(&self, setup: &Setup, steps: &mut Vec<JoinStep>) {
        let Some(newcomer) = setup.newcomer else {
            return;
        };
        match self.join.phase {
            Phase::Waiting | Phase::Preparing => self.steps_before_copy(newcomer, setup, steps),
            Phase::Copying => self.steps_of_copy(newcomer, steps),
            Phase::Done => {}
        }
    }

    fn steps_before_copy(&self, newcomer: usize, setup: &Setup, steps: &mut Vec<JoinStep>) {
        let known = |region: &&Region| region.peers[newcomer].is_some();
        if self.join.phase == Phase::Waiting && !self.may_join(newcomer) {
            return;
        }
        let unset = self.members().filter(|region| !known(region));
        steps.extend(unset.map(|region| JoinStep::SetPeers {
            region: usize::from(region.id),
        }));
        let all = self.members().all(|region| known(&region));
        let donors = self.members().filter(known);
        if all || !setup.rules.view_after_all_set_peers {
            steps.extend(donors.map(|region| JoinStep::TakeView {
                donor: usize::from(region.id),
            }));
        }
    }

    /// Returns whether the newcomer can join: when no region is being removed, and, if it was lost,
    /// once it is removed.
    fn may_join(&self, newcomer: usize) -> bool {
        let lost = |id: usize| self.regions[id].mode == Mode::Lost;
        let removing = self.members().any(|region| {
            let mut peers = region.peers.iter().enumerate();
            peers.any(|(id, peer)| peer.is_some() && lost(id))
        });
        !removing && matches!(self.regions[newcomer].mode, Mode::Absent | Mode::Lost)
    }

    fn steps_of_copy(&self, newcomer: usize, steps: &mut Vec<JoinStep>) {
        let join = &self.join;
        for key in (0..MAX_KEYS).filter(|key| join.uncopied[*key]) {
            steps.push(JoinStep::Copy { key, view: true });
            if self.regions[join.donor].records[key] != join.view[key] {
                steps.push(JoinStep::Copy { key, view: false });
            }
        }
        let unset = |region: &&Region| region.peers[newcomer].is_none();
        steps.extend(
            self.members()
                .filter(unset)
                .map(|region| JoinStep::SetPeers {
                    region: usize::from(region.id),
                }),
        );
        if self.remaining.copy_aborts > 0 {
            steps.push(JoinStep::Abort);
        }
        if !join.uncopied.contains(&true) && !self.members().any(|region| unset(&region)) {
            steps.push(JoinStep::Serve);
        }
    }

    /// Applies a step of the join.
    pub(crate) fn apply_join_step(&mut self, step: JoinStep, setup: &Setup) {
        let Some(newcomer) = setup.newcomer else {
            return;
        };
        let rules = &setup.rules;
        match step {
            JoinStep::SetPeers { region } => self.set_peers(region, newcomer, rules),
            JoinStep::TakeView { donor } => self.take_view(donor, newcomer, setup),
            JoinStep::Copy { key, view } => {
                let records = if view {
                    &self.join.view
                } else {
                    &self.regions[self.join.donor].records
                };
                let copied = records[key]
                    .filter(|record| rules.copy_carries_tombstones || !record.is_tombstone());
                self.join.uncopied[key] = false;
                if let Some(record) = copied {
                    self.store_copied(newcomer, key, record, rules);
                }
            }
            JoinStep::Abort => {
                self.remaining.copy_aborts -= 1;
                self.join.phase = Phase::Preparing;
                self.pending_drops[newcomer] |= self.regions[newcomer].dropped;
                self.empty(newcomer);
            }
            JoinStep::Serve => {
                self.join.phase = Phase::Done;
                let cursors = self.cursors_for(newcomer);
                let region = &mut self.regions[newcomer];
                region.mode = Mode::Serving;
                if rules.raise_last_versions {
                    region.last_version = region.last_version.max(self.join.max_last_version);
                }
                if !rules.cursors_before_copy {
                    region.peers = cursors;
                }
            }
        }
    }

    /// Stores a copied record. The guard doesn't apply: the bulk copy carries versions below the
    /// watermarks.
    fn store_copied(
        &mut self,
        newcomer: usize,
        key: usize,
        record: crate::record::Record,
        rules: &Rules,
    ) {
        let region = &mut self.regions[newcomer];
        let is_announced = region.peers[usize::from(record.version.region)]
            .is_some_and(|peer| record.version.time <= peer.watermark);
        if rules.joining_ignores_watermarks || !is_announced {
            region.merge_record(key, record, rules);
        }
    }

    fn set_peers(&mut self, region: usize, newcomer: usize, rules: &Rules) {
        let incarnation = self.next_incarnation(newcomer);
        let region = &mut self.regions[region];
        let acked = if rules.newcomer_from_lowest_ack {
            region.acked_by_all(rules)
        } else {
            region.last_seq
        };
        region.peers[newcomer] = Some(Peer::new(incarnation, acked, 0));
        self.join.max_last_version = self.join.max_last_version.max(region.last_version);
        if self.join.phase == Phase::Waiting {
            self.join.phase = Phase::Preparing;
            self.regions[newcomer].incarnation = incarnation;
            let is_dropping = self.pending_drops.contains(&true);
            self.pending_drops[newcomer] = is_dropping && rules.drop_reaches_newcomer;
        }
    }

    fn next_incarnation(&self, newcomer: usize) -> u8 {
        let incarnation = self.regions[newcomer].incarnation;
        match self.join.phase {
            Phase::Waiting => incarnation + 1,
            Phase::Preparing | Phase::Copying | Phase::Done => incarnation,
        }
    }

    fn take_view(&mut self, donor: usize, newcomer: usize, setup: &Setup) {
        let rules = &setup.rules;
        let view = self.regions[donor].records;
        let dropped = self.regions[donor].dropped;
        self.join.phase = Phase::Copying;
        self.join.donor = donor;
        self.join.view = view;
        let joins_again = self.regions[newcomer].mode == Mode::Lost;
        let old = self.regions[newcomer].records;
        self.empty(newcomer);
        if joins_again && !rules.newcomer_emptied {
            for (key, record) in changes(&old) {
                self.regions[newcomer].merge_record(key, record, rules);
            }
        }
        for key in 0..setup.keys {
            self.join.uncopied[key] = true;
        }
        let cursors = self.cursors_for(newcomer);
        let region = &mut self.regions[newcomer];
        region.mode = Mode::Joining;
        region.dropped = dropped;
        if rules.cursors_before_copy {
            region.peers = cursors;
        }
    }

    /// Returns the newcomer's cursors: those of the donor, and its own last sequence.
    fn cursors_for(&self, newcomer: usize) -> [Option<Peer>; crate::record::MAX_REGIONS] {
        let donor = &self.regions[self.join.donor];
        std::array::from_fn(|id| {
            let region = &self.regions[id];
            if id == newcomer || !region.is_serving() {
                return None;
            }
            let cursor = if id == self.join.donor {
                donor.last_seq
            } else {
                donor.peers[id].map_or(0, |peer| peer.cursor)
            };
            Some(Peer::new(region.incarnation, 0, cursor))
        })
    }

    fn empty(&mut self, newcomer: usize) {
        let mut region = Region::new(newcomer);
        region.incarnation = self.regions[newcomer].incarnation;
        self.regions[newcomer] = region;
        self.join.uncopied = [false; MAX_KEYS];
    }
}
