//! Reacts to disks that fill up: leaders move to nodes with free space, and refuse growth where
//! there is none.
//!
//! A node reports in each pong whether its disk is below the low-water mark, so a leader knows that
//! of its members. While most of them have free space it accepts everything: the others follow as
//! long as they can, and catch up when they have space again.

use super::failure_detector::FailureDetector;
use super::placement_controller::PlacementController;
use crate::raft::{Group, NodeId, StateMachine};
use crate::store::{DiskSpace, DiskState, WriteAdmission, WriteGate};

/// Voter of a group, with the state of its disk.
#[derive(Clone, Copy, Debug)]
struct VoterDisk {
    id: NodeId,
    /// True if its disk is below the low-water mark, as far as is known.
    is_low: bool,
    /// True if it could take the lead.
    is_alive: bool,
}

/// Decides what a leader accepts, from the disk space of its node and of the other voters.
fn decide_admission(state: DiskState, me: NodeId, voters: &[VoterDisk]) -> WriteAdmission {
    let low = voters.iter().filter(|voter| voter.is_low).count();
    let elsewhere = voters
        .iter()
        .any(|voter| voter.id != me && voter.is_alive && !voter.is_low);
    if state == DiskState::Exhausted {
        WriteAdmission::NoWrites { elsewhere }
    } else if 2 * low > voters.len() {
        WriteAdmission::NoGrowth { elsewhere }
    } else {
        WriteAdmission::AllWrites
    }
}

/// Disk state of this node and of the others.
pub(super) struct DiskMonitor<'a> {
    pub me: NodeId,
    pub space: &'a DiskSpace,
    pub failure_detector: &'a FailureDetector,
}

impl DiskMonitor<'_> {
    fn voter_disks<M: StateMachine>(&self, group: &Group<M>) -> Vec<VoterDisk> {
        let (voters, _) = group.members();
        let voter = |id| VoterDisk {
            id,
            is_low: if id == self.me {
                self.space.state() != DiskState::Ample
            } else {
                self.failure_detector.is_disk_low(id)
            },
            is_alive: id == self.me || self.failure_detector.is_alive(id),
        };
        voters.into_iter().map(voter).collect()
    }

    /// Decides what a group accepts on this node.
    fn update_gate<M: StateMachine>(&self, group: &Group<M>, gate: &WriteGate) {
        let voters = self.voter_disks(group);
        let state = if group.led_term().is_some() {
            self.space.state()
        } else {
            DiskState::Ample
        };
        gate.set(decide_admission(state, self.me, &voters));
    }

    /// Transfers a group's leadership to a voter with free space, if this node has none.
    async fn transfer_leadership<M: StateMachine>(&self, group: &Group<M>) {
        if self.space.state() == DiskState::Ample || group.led_term().is_none() {
            return;
        }
        let voters = self.voter_disks(group).into_iter();
        let targets = voters.filter(|voter| voter.id != self.me && voter.is_alive && !voter.is_low);
        let targets: Vec<NodeId> = targets.map(|voter| voter.id).collect();
        if !targets.is_empty() {
            group
                .transfer_leadership(&targets, "the leader's disk is nearly full")
                .await;
        }
    }
}

impl PlacementController {
    /// Updates what the groups accept, and moves leadership to nodes with free space.
    pub(super) async fn update_disk_gates(&self) {
        let disks = DiskMonitor {
            me: self.identity.node_id,
            space: &self.disk_space,
            failure_detector: &self.failure_detector,
        };
        disks.update_gate(&self.meta, &self.meta_gate);
        for shard in &self.shards {
            disks.update_gate(shard.group(), shard.gate());
        }
        for shard in &self.shards {
            disks.transfer_leadership(shard.group()).await;
        }
        disks.transfer_leadership(&self.meta).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::new(1);

    fn voter_disks(low: [bool; 3], living: [bool; 3]) -> Vec<VoterDisk> {
        let ids = (1..).map(NodeId::new).zip(low).zip(living);
        ids.map(|((id, is_low), lives)| VoterDisk {
            id,
            is_low,
            is_alive: lives,
        })
        .collect()
    }

    #[test]
    fn growth_is_refused_while_most_voters_lack_space() {
        const ALL: [bool; 3] = [true; 3];
        let low = |low| decide_admission(DiskState::Low, ME, &voter_disks(low, ALL));
        assert_eq!(low([true, false, false]), WriteAdmission::AllWrites);
        let some_elsewhere = WriteAdmission::NoGrowth { elsewhere: true };
        assert_eq!(low([true, true, false]), some_elsewhere);
        let none_elsewhere = WriteAdmission::NoGrowth { elsewhere: false };
        assert_eq!(low([true, true, true]), none_elsewhere);
        // A node with free space that isn't alive doesn't count.
        let silent = voter_disks([true, true, false], [true, true, false]);
        assert_eq!(
            decide_admission(DiskState::Low, ME, &silent),
            none_elsewhere
        );
    }

    #[test]
    fn a_leader_with_an_exhausted_reserve_accepts_nothing() {
        let others_have_space = voter_disks([true, false, false], [true; 3]);
        let decision = decide_admission(DiskState::Exhausted, ME, &others_have_space);
        assert_eq!(decision, WriteAdmission::NoWrites { elsewhere: true });
        let alone = [VoterDisk {
            id: ME,
            is_low: true,
            is_alive: true,
        }];
        let decision = decide_admission(DiskState::Exhausted, ME, &alone);
        assert_eq!(decision, WriteAdmission::NoWrites { elsewhere: false });
        assert_eq!(
            decide_admission(DiskState::Low, ME, &alone),
            WriteAdmission::NoGrowth { elsewhere: false }
        );
    }
}
