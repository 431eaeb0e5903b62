//! Commands on regions, which join one after the other and are removed.
//!
//! Invariants:
//! - the number of a region is never reused: records of a removed region keep it;
//! - a region is removed when every region that stays has reported, in the round of the last
//!   removal, that it has sent the others its records of all regions that are being removed.

use std::io;

use cloudkv_proto::v1 as pb;

use super::command_refusal::{CommandRefusal, CommandResult};
use super::nodes::with_removal_time;
use super::state::MetaState;
use super::topology::{NodeInfo, NodeState};
use crate::store::RowBatch;
use crate::types::Nanos;

/// Maximum length of a region's name, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Maximum number of removed regions whose names are kept.
const MAX_REMOVED_REGIONS: usize = 16;

impl MetaState {
    /// Adds a region, which joins the others; does nothing if one of that name exists.
    pub(super) fn add_region(&mut self, add: &pb::AddRegion) -> CommandResult {
        if self
            .header
            .regions
            .iter()
            .any(|region| region.name == add.name)
        {
            return Ok(());
        }
        if add.name.is_empty() || add.name.len() > MAX_NAME_BYTES || add.incarnation == 0 {
            return Err(CommandRefusal::Malformed);
        }
        if let Some(other) = self.header.regions.iter().find(|region| region.leaving) {
            let region = other.number;
            return Err(CommandRefusal::RegionBeingRemoved { region });
        }
        if let Some(other) = self.header.regions.iter().find(|region| region.joining) {
            let region = other.number;
            return Err(CommandRefusal::RegionJoining { region });
        }
        let numbers = self.header.regions.iter().map(|region| region.number);
        let last = numbers.max().ok_or(CommandRefusal::Malformed)?;
        self.header.regions.push(pb::Region {
            number: last.max(self.header.last_region) + 1,
            name: add.name.clone(),
            incarnation: add.incarnation,
            joining: true,
            bootstrap_node: add.bootstrap_node,
            leaving: false,
        });
        self.header.regions_epoch += 1;
        Ok(())
    }

    /// Ends the joining of a region. The peers of its shards don't change, and so neither does the
    /// epoch.
    pub(super) fn region_joined(&mut self, number: u32) -> CommandResult {
        let mut regions = self.header.regions.iter_mut();
        let region = regions.find(|region| region.number == number);
        region.ok_or(CommandRefusal::Malformed)?.joining = false;
        Ok(())
    }

    /// Starts the removal of a region. A region that joins meanwhile couldn't reconcile anything:
    /// it has to finish first, or to be removed itself.
    pub(super) fn remove_region(&mut self, name: &str) -> CommandResult {
        let regions = &self.header.regions;
        let index = regions.iter().position(|region| region.name == name);
        let index = index.ok_or(CommandRefusal::NoSuchRegion)?;
        if regions[index].leaving {
            return Ok(());
        }
        let others = || {
            let others = regions.iter().enumerate();
            others.filter(|(other, region)| *other != index && !region.leaving)
        };
        if let Some((_, other)) = others().find(|(_, region)| region.joining) {
            let region = other.number;
            return Err(CommandRefusal::RegionJoining { region });
        }
        if others().next().is_none() {
            return Err(CommandRefusal::LastRegion);
        }
        self.header.regions[index].leaving = true;
        self.header.removal_round += 1;
        self.header.reconciled_in.clear();
        Ok(())
    }

    /// Records that a region that stays has reconciled the regions that are being removed.
    pub(super) fn region_reconciled(
        &mut self,
        time: Nanos,
        reconciled: pb::RegionReconciled,
        batch: &mut RowBatch,
    ) -> io::Result<CommandResult> {
        let header = &mut self.header;
        let is_staying = |region: &&pb::Region| !region.leaving;
        let staying = header.regions.iter().filter(is_staying);
        let staying = staying.map(|region| region.number).collect::<Vec<_>>();
        let is_removing = staying.len() < header.regions.len();
        if !is_removing
            || reconciled.round != header.removal_round
            || !staying.contains(&reconciled.region)
        {
            return Ok(Ok(()));
        }
        if !header.reconciled_in.contains(&reconciled.region) {
            header.reconciled_in.push(reconciled.region);
        }
        if staying.iter().all(|it| header.reconciled_in.contains(it)) {
            self.finish_region_removal(time, batch)?;
        }
        Ok(Ok(()))
    }

    /// Completes the removal of regions, and removes their nodes.
    fn finish_region_removal(&mut self, time: Nanos, batch: &mut RowBatch) -> io::Result<()> {
        let header = &mut self.header;
        let numbers = header.regions.iter().map(|region| region.number);
        header.last_region = header.last_region.max(numbers.max().unwrap_or(0));
        header.reconciled_in.clear();
        header.regions_epoch += 1;
        let removing = header.regions.extract_if(.., |region| region.leaving);
        let named = removing.map(|region| pb::RemovedRegion {
            number: region.number,
            name: region.name,
        });
        let named: Vec<pb::RemovedRegion> = named.collect();
        let removed: Vec<u32> = named.iter().map(|region| region.number).collect();
        header.removed_regions.extend(named);
        let surplus = header.removed_regions.len();
        let surplus = surplus.saturating_sub(MAX_REMOVED_REGIONS);
        header.removed_regions.drain(..surplus);
        let topology = self.catalog.topology();
        let nodes = topology.nodes().iter();
        let affected = nodes
            .filter(|node| removed.contains(&node.region) && node.state != NodeState::Removed)
            .cloned();
        for node in affected {
            let state = NodeState::Removed;
            let node = with_removal_time(NodeInfo { state, ..node }, time);
            self.put_node(node, batch)?;
        }
        self.remove_dropped_buckets(batch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_fixture::{MetadataFixture, bootstrap_command, id, registration};
    use super::*;
    use cloudkv_proto::v1::meta_command::Kind as Command;

    fn add_region(fixture: &mut MetadataFixture, name: &str) -> CommandResult {
        fixture.apply(Command::AddRegion(pb::AddRegion {
            name: name.into(),
            incarnation: 5,
            bootstrap_node: 2,
        }))
    }

    fn join_region(fixture: &mut MetadataFixture, name: &str) -> u32 {
        add_region(fixture, name).unwrap();
        let region = fixture.topology().region_number(name).unwrap();
        let joined = Command::RegionJoined(pb::RegionJoined { region });
        fixture.apply(joined).unwrap();
        region
    }

    fn remove_region(fixture: &mut MetadataFixture, name: &str) -> CommandResult {
        let name = name.into();
        fixture.apply(Command::RemoveRegion(pb::RemoveRegion { name }))
    }

    fn reconcile_region(fixture: &mut MetadataFixture, region: u32, round: u64) {
        let reconciled = pb::RegionReconciled { region, round };
        fixture
            .apply(Command::RegionReconciled(reconciled))
            .unwrap();
    }

    #[test]
    fn a_region_is_removed_once_all_others_have_reconciled_it_and_its_number_is_not_reused() {
        let mut fixture = MetadataFixture::bootstrapped();
        let (us, ap) = (
            join_region(&mut fixture, "us"),
            join_region(&mut fixture, "ap"),
        );
        let node = pb::RegisterNode {
            region: "ap".into(),
            ..registration(9)
        };
        fixture.apply(Command::RegisterNode(node)).unwrap();
        let epoch = fixture.topology().regions_epoch();
        assert_eq!(
            remove_region(&mut fixture, "moon"),
            Err(CommandRefusal::NoSuchRegion)
        );
        remove_region(&mut fixture, "ap").unwrap();
        remove_region(&mut fixture, "ap").unwrap();
        assert_eq!(fixture.topology().removal_round(), 1);
        assert_eq!(
            add_region(&mut fixture, "sa"),
            Err(CommandRefusal::RegionBeingRemoved { region: ap })
        );
        reconcile_region(&mut fixture, 1, 1);
        // These don't count: of another round, of a region that is being removed, and a repetition.
        reconcile_region(&mut fixture, us, 7);
        reconcile_region(&mut fixture, ap, 1);
        reconcile_region(&mut fixture, 1, 1);
        assert_eq!(fixture.topology().reconciled_regions(), [1]);
        assert_eq!(fixture.topology().regions_epoch(), epoch);
        reconcile_region(&mut fixture, us, 1);
        let topology = fixture.topology();
        assert_eq!(topology.region_number("ap"), None);
        assert_eq!(topology.regions_epoch(), epoch + 1);
        assert_eq!(topology.node(id(9)).unwrap().state, NodeState::Removed);
        assert_eq!(topology.node(id(1)).unwrap().state, NodeState::Active);
        assert_eq!(topology.region_name(ap), None);
        assert_eq!(topology.known_region_name(ap), Some("ap"));
        assert_eq!(join_region(&mut fixture, "ap"), ap + 1);
    }

    #[test]
    fn a_second_removal_starts_another_round_and_the_last_region_stays() {
        let mut fixture = MetadataFixture::bootstrapped();
        let (us, _) = (
            join_region(&mut fixture, "us"),
            join_region(&mut fixture, "ap"),
        );
        remove_region(&mut fixture, "ap").unwrap();
        reconcile_region(&mut fixture, 1, 1);
        remove_region(&mut fixture, "us").unwrap();
        assert_eq!(
            remove_region(&mut fixture, "eu"),
            Err(CommandRefusal::LastRegion)
        );
        assert!(fixture.topology().reconciled_regions().is_empty());
        reconcile_region(&mut fixture, us, 2);
        reconcile_region(&mut fixture, 1, 2);
        let topology = fixture.topology();
        assert_eq!(topology.region_names().collect::<Vec<_>>(), [(1, "eu")]);
    }

    #[test]
    fn a_joining_region_can_be_removed_and_blocks_the_removal_of_others() {
        let mut fixture = MetadataFixture::bootstrapped();
        join_region(&mut fixture, "us");
        add_region(&mut fixture, "ap").unwrap();
        let region = fixture.topology().region_number("ap").unwrap();
        assert_eq!(
            remove_region(&mut fixture, "us"),
            Err(CommandRefusal::RegionJoining { region })
        );
        remove_region(&mut fixture, "ap").unwrap();
        reconcile_region(&mut fixture, 1, 1);
        reconcile_region(&mut fixture, 2, 1);
        assert_eq!(join_region(&mut fixture, "sa"), region + 1);
    }

    #[test]
    fn the_names_of_the_regions_that_were_removed_last_are_kept() {
        let mut fixture = MetadataFixture::bootstrapped();
        let mut removed = Vec::new();
        for round in 1..=MAX_REMOVED_REGIONS + 1 {
            removed.push(join_region(&mut fixture, "us"));
            remove_region(&mut fixture, "us").unwrap();
            reconcile_region(&mut fixture, 1, round as u64);
        }
        let topology = fixture.topology();
        let names = removed.iter().map(|it| topology.known_region_name(*it));
        let names: Vec<Option<&str>> = names.collect();
        assert_eq!(names[0], None);
        assert!(
            names[1..].iter().all(|name| *name == Some("us")),
            "{names:?}"
        );
        assert_eq!(topology.known_region_name(1), Some("eu"));
    }

    #[test]
    fn the_only_region_cannot_be_removed() {
        let mut fixture = MetadataFixture::new(false);
        fixture
            .apply(Command::Bootstrap(bootstrap_command()))
            .unwrap();
        assert_eq!(
            remove_region(&mut fixture, "eu"),
            Err(CommandRefusal::LastRegion)
        );
    }
}
