//! Commands on regions: they join, one after the other, and leave.
//!
//! Invariants:
//! - a region's number is never used again: records of one that has left keep it;
//! - a region that is to leave goes when every region that stays has said, in the round of the last
//!   one that was named, that it has passed on what it has of all of them.

use std::io;

use cloudkv_proto::v1 as pb;

use super::buckets::Refusal;
use super::state::{MetaState, Response};
use super::topology::{NodeInfo, NodeState};
use crate::store::Batch;
use crate::types::Nanos;

/// The first feature level of the metadata at which shards can do what it takes that a region leaves.
pub const LEAVE_LEVEL: u32 = 4;
/// The longest name, in bytes.
const MAX_NAME: usize = 63;

impl MetaState {
    /// Makes a region known, which joins the others; nothing if there is one of that name.
    pub(super) fn add_region(&mut self, add: &pb::AddRegion) -> Response {
        if self
            .header
            .regions
            .iter()
            .any(|region| region.name == add.name)
        {
            return Ok(());
        }
        if add.name.is_empty() || add.name.len() > MAX_NAME || add.incarnation == 0 {
            return Err(Refusal::Malformed);
        }
        if let Some(other) = self.header.regions.iter().find(|region| region.leaving) {
            let region = other.number;
            return Err(Refusal::RegionLeaving { region });
        }
        if let Some(other) = self.header.regions.iter().find(|region| region.joining) {
            let region = other.number;
            return Err(Refusal::RegionJoining { region });
        }
        let numbers = self.header.regions.iter().map(|region| region.number);
        let last = numbers.max().ok_or(Refusal::Malformed)?;
        self.header.regions.push(pb::Region {
            number: last.max(self.header.last_region) + 1,
            name: add.name.clone(),
            incarnation: add.incarnation,
            joining: true,
            founder: add.founder,
            leaving: false,
        });
        self.header.regions_epoch += 1;
        Ok(())
    }

    /// A region has joined. Its shards' peers stay as they are: so does the epoch.
    pub(super) fn region_joined(&mut self, number: u32) -> Response {
        let mut regions = self.header.regions.iter_mut();
        let region = regions.find(|region| region.number == number);
        region.ok_or(Refusal::Malformed)?.joining = false;
        Ok(())
    }

    /// A region is to leave. While another one joins, that one can't level anything: it ends first,
    /// or is removed itself.
    pub(super) fn remove_region(&mut self, name: &str) -> Response {
        let regions = &self.header.regions;
        let at = regions.iter().position(|region| region.name == name);
        let at = at.ok_or(Refusal::NoSuchRegion)?;
        if regions[at].leaving {
            return Ok(());
        }
        let others = || {
            let others = regions.iter().enumerate();
            others.filter(|(other, region)| *other != at && !region.leaving)
        };
        if let Some((_, other)) = others().find(|(_, region)| region.joining) {
            let region = other.number;
            return Err(Refusal::RegionJoining { region });
        }
        if others().next().is_none() {
            return Err(Refusal::LastRegion);
        }
        self.header.regions[at].leaving = true;
        self.header.removal_round += 1;
        self.header.levelled_in.clear();
        Ok(())
    }

    /// A region that stays has passed on what it has of those that leave.
    pub(super) fn region_levelled(
        &mut self,
        time: Nanos,
        levelled: pb::RegionLevelled,
        batch: &mut Batch,
    ) -> io::Result<Response> {
        let header = &mut self.header;
        let stays = |region: &&pb::Region| !region.leaving;
        let known = header.regions.iter().filter(stays);
        let known = known.map(|region| region.number).collect::<Vec<_>>();
        let leaves = known.len() < header.regions.len();
        if !leaves || levelled.round != header.removal_round || !known.contains(&levelled.region) {
            return Ok(Ok(()));
        }
        if !header.levelled_in.contains(&levelled.region) {
            header.levelled_in.push(levelled.region);
        }
        if known.iter().all(|it| header.levelled_in.contains(it)) {
            self.end_removal(time, batch)?;
        }
        Ok(Ok(()))
    }

    /// The regions that leave are gone, and their nodes with them.
    fn end_removal(&mut self, time: Nanos, batch: &mut Batch) -> io::Result<()> {
        let header = &mut self.header;
        let numbers = header.regions.iter().map(|region| region.number);
        header.last_region = header.last_region.max(numbers.max().unwrap_or(0));
        header.levelled_in.clear();
        header.regions_epoch += 1;
        let leave = header.regions.extract_if(.., |region| region.leaving);
        let gone: Vec<u32> = leave.map(|region| region.number).collect();
        let topology = self.catalog.topology();
        let nodes = topology.nodes().iter();
        let theirs = nodes
            .filter(|node| gone.contains(&node.region) && node.state != NodeState::Removed)
            .cloned();
        for node in theirs {
            let state = NodeState::Removed;
            let node = self.dated(NodeInfo { state, ..node }, time);
            self.put_node(node, batch)?;
        }
        self.forget_dropped(batch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, found, register};
    use super::*;
    use cloudkv_proto::v1::meta_command::Kind as Command;

    fn add(bench: &mut Bench, name: &str) -> Response {
        bench.apply(Command::AddRegion(pb::AddRegion {
            name: name.into(),
            incarnation: 5,
            founder: 2,
        }))
    }

    fn join(bench: &mut Bench, name: &str) -> u32 {
        add(bench, name).unwrap();
        let region = bench.topology().region_number(name).unwrap();
        let joined = Command::RegionJoined(pb::RegionJoined { region });
        bench.apply(joined).unwrap();
        region
    }

    fn remove(bench: &mut Bench, name: &str) -> Response {
        let name = name.into();
        bench.apply(Command::RemoveRegion(pb::RemoveRegion { name }))
    }

    fn levelled(bench: &mut Bench, region: u32, round: u64) {
        let levelled = pb::RegionLevelled { region, round };
        bench.apply(Command::RegionLevelled(levelled)).unwrap();
    }

    #[test]
    fn a_region_goes_when_all_that_stay_have_levelled_it_and_its_number_is_not_used_again() {
        let mut bench = Bench::founded();
        let (us, ap) = (join(&mut bench, "us"), join(&mut bench, "ap"));
        let node = pb::RegisterNode {
            region: "ap".into(),
            ..register(9)
        };
        bench.apply(Command::RegisterNode(node)).unwrap();
        let epoch = bench.topology().regions_epoch();
        assert_eq!(remove(&mut bench, "moon"), Err(Refusal::NoSuchRegion));
        remove(&mut bench, "ap").unwrap();
        remove(&mut bench, "ap").unwrap();
        assert_eq!(bench.topology().removal_round(), 1);
        assert_eq!(
            add(&mut bench, "sa"),
            Err(Refusal::RegionLeaving { region: ap })
        );
        levelled(&mut bench, 1, 1);
        // Not of this round, not one that stays, and once more.
        levelled(&mut bench, us, 7);
        levelled(&mut bench, ap, 1);
        levelled(&mut bench, 1, 1);
        assert_eq!(bench.topology().levelled_in(), [1]);
        assert_eq!(bench.topology().regions_epoch(), epoch);
        levelled(&mut bench, us, 1);
        let topology = bench.topology();
        assert_eq!(topology.region_number("ap"), None);
        assert_eq!(topology.regions_epoch(), epoch + 1);
        assert_eq!(topology.node(9).unwrap().state, NodeState::Removed);
        assert_eq!(topology.node(1).unwrap().state, NodeState::Active);
        assert_eq!(join(&mut bench, "ap"), ap + 1);
    }

    #[test]
    fn a_second_loss_begins_another_round_and_the_last_region_stays() {
        let mut bench = Bench::founded();
        let (us, _) = (join(&mut bench, "us"), join(&mut bench, "ap"));
        remove(&mut bench, "ap").unwrap();
        levelled(&mut bench, 1, 1);
        remove(&mut bench, "us").unwrap();
        assert_eq!(remove(&mut bench, "eu"), Err(Refusal::LastRegion));
        assert!(bench.topology().levelled_in().is_empty());
        levelled(&mut bench, us, 2);
        levelled(&mut bench, 1, 2);
        let topology = bench.topology();
        assert_eq!(topology.regions().collect::<Vec<_>>(), [(1, "eu")]);
    }

    #[test]
    fn a_region_that_joins_can_be_removed_and_keeps_others_from_being() {
        let mut bench = Bench::founded();
        join(&mut bench, "us");
        add(&mut bench, "ap").unwrap();
        let region = bench.topology().region_number("ap").unwrap();
        assert_eq!(
            remove(&mut bench, "us"),
            Err(Refusal::RegionJoining { region })
        );
        remove(&mut bench, "ap").unwrap();
        levelled(&mut bench, 1, 1);
        levelled(&mut bench, 2, 1);
        assert_eq!(join(&mut bench, "sa"), region + 1);
    }

    #[test]
    fn commands_of_one_region_are_as_they_were() {
        let mut bench = Bench::new(false);
        bench.apply(Command::Found(found())).unwrap();
        assert_eq!(remove(&mut bench, "eu"), Err(Refusal::LastRegion));
    }
}
