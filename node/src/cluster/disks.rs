//! Reacts to disks that fill up: leaders move to nodes with free space, and refuse growth where
//! there is none.
//!
//! A node reports in each pong whether its disk is below the low-water mark, so a leader knows that
//! of its members. While most of them have free space it accepts everything: the others follow as
//! long as they can, and catch up when they have space again.

use super::keeper::Keeper;
use super::vitals::Vitals;
use crate::raft::{Group, Machine, NodeId};
use crate::store::{DiskSpace, DiskState, Gate, Intake};

/// Voter of a group, with the state of its disk.
#[derive(Clone, Copy, Debug)]
struct Voter {
    id: NodeId,
    /// True if its disk is below the low-water mark, as far as is known.
    is_low: bool,
    /// True if it could take the lead.
    lives: bool,
}

/// Decides what a leader accepts, from the disk space of its node and of the other voters.
fn intake(state: DiskState, me: NodeId, voters: &[Voter]) -> Intake {
    let low = voters.iter().filter(|voter| voter.is_low).count();
    let elsewhere = voters
        .iter()
        .any(|voter| voter.id != me && voter.lives && !voter.is_low);
    if state == DiskState::Exhausted {
        Intake::Nothing { elsewhere }
    } else if 2 * low > voters.len() {
        Intake::NoGrowth { elsewhere }
    } else {
        Intake::All
    }
}

/// Disk state of this node and of the others.
pub(super) struct Disks<'a> {
    pub me: NodeId,
    pub space: &'a DiskSpace,
    pub vitals: &'a Vitals,
}

impl Disks<'_> {
    fn voters<M: Machine>(&self, group: &Group<M>) -> Vec<Voter> {
        let (voters, _) = group.members();
        let voter = |id| Voter {
            id,
            is_low: if id == self.me {
                self.space.state() != DiskState::Ample
            } else {
                self.vitals.disk_is_low(id)
            },
            lives: id == self.me || self.vitals.lives(id),
        };
        voters.into_iter().map(voter).collect()
    }

    /// Decides what a group accepts on this node.
    fn decide<M: Machine>(&self, group: &Group<M>, gate: &Gate) {
        let voters = self.voters(group);
        let state = if group.led_term().is_some() {
            self.space.state()
        } else {
            DiskState::Ample
        };
        gate.set(intake(state, self.me, &voters));
    }

    /// Transfers a group's leadership to a voter with free space, if this node has none.
    async fn give_way<M: Machine>(&self, group: &Group<M>) {
        if self.space.state() == DiskState::Ample || group.led_term().is_none() {
            return;
        }
        let voters = self.voters(group).into_iter();
        let targets = voters.filter(|voter| voter.id != self.me && voter.lives && !voter.is_low);
        let targets: Vec<NodeId> = targets.map(|voter| voter.id).collect();
        if !targets.is_empty() {
            group
                .hand_over(&targets, "the leader's disk is nearly full")
                .await;
        }
    }
}

impl Keeper {
    /// Updates what the groups accept, and moves leadership to nodes with free space.
    pub(super) async fn mind_disks(&self) {
        let disks = Disks {
            me: self.identity.node_id,
            space: &self.space,
            vitals: &self.vitals,
        };
        disks.decide(&self.meta, &self.meta_gate);
        for shard in &self.shards {
            disks.decide(shard.group(), shard.gate());
        }
        for shard in &self.shards {
            disks.give_way(shard.group()).await;
        }
        disks.give_way(&self.meta).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(low: [bool; 3], living: [bool; 3]) -> Vec<Voter> {
        let ids = (1..).zip(low).zip(living);
        ids.map(|((id, is_low), lives)| Voter { id, is_low, lives })
            .collect()
    }

    #[test]
    fn growth_is_refused_while_most_voters_lack_space() {
        const ALL: [bool; 3] = [true; 3];
        let low = |low| intake(DiskState::Low, 1, &voters(low, ALL));
        assert_eq!(low([true, false, false]), Intake::All);
        let some_elsewhere = Intake::NoGrowth { elsewhere: true };
        assert_eq!(low([true, true, false]), some_elsewhere);
        let none_elsewhere = Intake::NoGrowth { elsewhere: false };
        assert_eq!(low([true, true, true]), none_elsewhere);
        // A node with free space that isn't alive doesn't count.
        let silent = voters([true, true, false], [true, true, false]);
        assert_eq!(intake(DiskState::Low, 1, &silent), none_elsewhere);
    }

    #[test]
    fn a_leader_with_an_exhausted_reserve_accepts_nothing() {
        let others_have_space = voters([true, false, false], [true; 3]);
        let decision = intake(DiskState::Exhausted, 1, &others_have_space);
        assert_eq!(decision, Intake::Nothing { elsewhere: true });
        let alone = [Voter {
            id: 1,
            is_low: true,
            lives: true,
        }];
        let decision = intake(DiskState::Exhausted, 1, &alone);
        assert_eq!(decision, Intake::Nothing { elsewhere: false });
        assert_eq!(
            intake(DiskState::Low, 1, &alone),
            Intake::NoGrowth { elsewhere: false }
        );
    }
}
