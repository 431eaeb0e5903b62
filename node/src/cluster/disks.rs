//! Disks that fill up: leaders go where there is room, and refuse what grows where there is none.
//!
//! A node tells with each sign of life whether its disk is below the low-water mark, so a leader
//! knows that of its members. While most of them have room it takes everything: the others follow
//! as long as they can, and catch up when they have room again.

use super::keeper::Keeper;
use super::vitals::Vitals;
use crate::raft::{Group, Machine, NodeId};
use crate::store::{DiskSpace, DiskState, Gate, Intake};

/// A member that votes.
#[derive(Clone, Copy, Debug)]
struct Voter {
    id: NodeId,
    /// Whether its disk is below the mark, as far as is known.
    is_low: bool,
    /// Whether it could take the lead.
    lives: bool,
}

/// What a leader takes, by its own room and its members'.
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

/// What is known of disks: this node's, and those of others.
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

    /// Decides what a group takes, as it is asked for on this node.
    fn decide<M: Machine>(&self, group: &Group<M>, gate: &Gate) {
        let voters = self.voters(group);
        let state = if group.led_term().is_some() {
            self.space.state()
        } else {
            DiskState::Ample
        };
        gate.set(intake(state, self.me, &voters));
    }

    /// Hands a group's leadership to a member with room, if this node has none.
    async fn give_way<M: Machine>(&self, group: &Group<M>) {
        if self.space.state() == DiskState::Ample || group.led_term().is_none() {
            return;
        }
        let voters = self.voters(group).into_iter();
        let with_room = voters.filter(|voter| voter.id != self.me && voter.lives && !voter.is_low);
        let with_room: Vec<NodeId> = with_room.map(|voter| voter.id).collect();
        if !with_room.is_empty() {
            group
                .hand_over(&with_room, "the leader's disk is nearly full")
                .await;
        }
    }
}

impl Keeper {
    /// Decides what the groups take, and gives leadership to nodes with more room.
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
        let all = (1..).zip(low).zip(living);
        all.map(|((id, is_low), lives)| Voter { id, is_low, lives })
            .collect()
    }

    #[test]
    fn what_grows_is_refused_while_most_members_lack_room() {
        const ALL: [bool; 3] = [true; 3];
        let low = |low| intake(DiskState::Low, 1, &voters(low, ALL));
        assert_eq!(low([true, false, false]), Intake::All);
        let some_elsewhere = Intake::NoGrowth { elsewhere: true };
        assert_eq!(low([true, true, false]), some_elsewhere);
        let none_elsewhere = Intake::NoGrowth { elsewhere: false };
        assert_eq!(low([true, true, true]), none_elsewhere);
        // Who has room and doesn't live is of no help.
        let silent = voters([true, true, false], [true, true, false]);
        assert_eq!(intake(DiskState::Low, 1, &silent), none_elsewhere);
    }

    #[test]
    fn a_leader_whose_reserve_is_used_up_takes_nothing() {
        let others_have_room = voters([true, false, false], [true; 3]);
        let taken = intake(DiskState::Exhausted, 1, &others_have_room);
        assert_eq!(taken, Intake::Nothing { elsewhere: true });
        let alone = [Voter {
            id: 1,
            is_low: true,
            lives: true,
        }];
        let taken = intake(DiskState::Exhausted, 1, &alone);
        assert_eq!(taken, Intake::Nothing { elsewhere: false });
        assert_eq!(
            intake(DiskState::Low, 1, &alone),
            Intake::NoGrowth { elsewhere: false }
        );
    }
}
