//! The topology at one moment, by which requests are routed.
//!
//! Invariant: a view never changes, except for the atomic state of its nodes. Its regions, nodes
//! and leaders are consistent with each other.

use std::sync::Arc;
use std::time::Duration;

use crate::upstream::Node;

/// Regions and nodes at one moment.
#[derive(Debug)]
pub(crate) struct TopologyView {
    /// Number of shards in each region.
    pub shards: u16,
    /// Regions, sorted by number. There is at least one.
    pub regions: Vec<RegionView>,
    /// Current region, which the global name selects: an index into `regions`.
    pub current: usize,
}

/// A region at one moment.
#[derive(Debug)]
pub(crate) struct RegionView {
    /// Number of the region.
    pub number: u32,
    /// Name of the region.
    pub name: String,
    /// Nodes of the region.
    pub nodes: Vec<Arc<Node>>,
    /// Leader per shard: an index into `nodes`.
    pub leaders: Vec<Option<usize>>,
}

impl TopologyView {
    /// Index of the region with this name, case-insensitively.
    pub(crate) fn region_index(&self, name: &str) -> Option<usize> {
        let has_name = |region: &RegionView| region.name.eq_ignore_ascii_case(name);
        self.regions.iter().position(has_name)
    }

    /// Names of all regions, separated by commas.
    pub(crate) fn region_names(&self) -> String {
        let names: Vec<&str> = self.regions.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    }

    /// First region for a request for the global name: the current one or, while none of its nodes
    /// is up, the next one. That needs no failed attempt, so it costs neither time nor retry
    /// budget.
    pub(crate) fn first_region(&self) -> usize {
        let is_up = |region: &RegionView| region.nodes.iter().any(|node| node.is_up());
        if self.regions.get(self.current).is_some_and(is_up) {
            return self.current;
        }
        self.next_region(&[self.current]).unwrap_or(self.current)
    }

    /// Next region for a request that the regions at `tried` didn't serve: the nearest healthy one.
    pub(crate) fn next_region(&self, tried: &[usize]) -> Option<usize> {
        let healthy = self.regions.iter().enumerate();
        healthy
            .filter(|(index, region)| !tried.contains(index) && region.is_healthy())
            .min_by_key(|(_, region)| region.round_trip().unwrap_or(Duration::MAX))
            .map(|(index, _)| index)
    }
}

impl RegionView {
    /// Returns whether all shards of the region can be served.
    pub(crate) fn is_healthy(&self) -> bool {
        self.nodes.iter().any(|node| node.is_available())
            && !self.leaders.is_empty()
            && self.leaders.iter().all(|leader| self.is_leader_up(*leader))
    }

    fn is_leader_up(&self, leader: Option<usize>) -> bool {
        let node = leader.and_then(|index| self.nodes.get(index));
        node.is_some_and(|node| node.is_up())
    }

    /// Shortest round trip to an available node.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let available = self.nodes.iter().filter(|node| node.is_available());
        available.filter_map(|node| node.round_trip()).min()
    }

    /// Picks the next node for a request, of those that weren't tried yet.
    ///
    /// First the leader of its shard; then the nearest nodes, round robin by `rotation`; then the
    /// others, with nodes that are down at the end.
    pub(crate) fn pick_node(
        &self,
        shard: Option<u16>,
        tried: &TriedNodes,
        rotation: u32,
    ) -> Option<usize> {
        let leader =
            shard.and_then(|shard| self.leaders.get(usize::from(shard)).copied().flatten());
        if let Some(leader) = leader
            && !tried.has(leader)
            && self
                .nodes
                .get(leader)
                .is_some_and(|node| node.is_available())
        {
            return Some(leader);
        }
        self.pick_near(tried, rotation).or_else(|| {
            let others = (0..self.nodes.len()).filter(|index| !tried.has(*index));
            others.min_by_key(|index| {
                let node = &self.nodes[*index];
                (!node.is_up(), node.is_draining())
            })
        })
    }

    /// Picks one of the available nodes that are about as near as the nearest.
    fn pick_near(&self, tried: &TriedNodes, rotation: u32) -> Option<usize> {
        let round_trip = |index: usize| {
            let node = &self.nodes[index];
            let round_trip = || node.round_trip().unwrap_or_default();
            (node.is_available() && !tried.has(index)).then(round_trip)
        };
        let nearest = (0..self.nodes.len()).filter_map(round_trip).min()?;
        let limit = nearest + nearest / 3 + Duration::from_millis(1);
        let is_near = |index: &usize| round_trip(*index).is_some_and(|it| it <= limit);
        let near = (0..self.nodes.len()).filter(is_near);
        let count = near.clone().count();
        near.cycle().nth(rotation as usize % count.max(1))
    }
}

/// Nodes of a region that were tried for a request, by index. Of a region with more than 64 nodes,
/// the others count as tried: a request isn't forwarded that often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TriedNodes(u64);

impl TriedNodes {
    /// Returns whether a node was tried.
    pub(crate) fn has(&self, index: usize) -> bool {
        let bit = u32::try_from(index)
            .ok()
            .and_then(|at| 1_u64.checked_shl(at));
        bit.is_none_or(|bit| self.0 & bit != 0)
    }

    /// Records that a node was tried.
    pub(crate) fn add(&mut self, index: usize) {
        let bit = u32::try_from(index)
            .ok()
            .and_then(|at| 1_u64.checked_shl(at));
        self.0 |= bit.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use cloudkv_common::node_id::NodeId;

    use super::*;
    use crate::upstream::ConnectSettings;

    fn region(nodes: usize, leaders: &[Option<usize>]) -> RegionView {
        let node = |id| {
            Arc::new(Node::new(
                "c",
                NodeId::from(id as u64),
                ("a:1", "a:2"),
                &ConnectSettings::default(),
            ))
        };
        RegionView {
            number: 1,
            name: "eu".to_owned(),
            nodes: (0..nodes).map(node).collect(),
            leaders: leaders.to_vec(),
        }
    }

    /// Returns the order in which nodes are tried.
    fn order(region: &RegionView, shard: Option<u16>, rotation: u32) -> Vec<usize> {
        let mut tried = TriedNodes::default();
        let mut order = Vec::new();
        while let Some(index) = region.pick_node(shard, &tried, rotation) {
            tried.add(index);
            order.push(index);
        }
        order
    }

    #[test]
    fn the_leader_is_tried_first_and_each_node_once() {
        let region = region(3, &[Some(2), None]);
        for rotation in 0..4 {
            let order = order(&region, Some(0), rotation);
            assert_eq!(order[0], 2);
            assert_eq!(order.len(), 3);
        }
        // There is no known leader, or no such shard: any node may be first.
        for shard in [None, Some(1), Some(9)] {
            let first: Vec<usize> = (0..3)
                .map(|rotation| order(&region, shard, rotation)[0])
                .collect();
            assert_eq!(first, [0, 1, 2], "round robin");
        }
    }

    #[test]
    fn nodes_that_are_down_or_draining_come_last() {
        let region = region(3, &[Some(0)]);
        region.nodes[0].record_failure(&"refused");
        region.nodes[1].set_draining(true);
        assert_eq!(order(&region, Some(0), 0), [2, 1, 0]);
    }

    #[test]
    fn near_nodes_are_used_round_robin_and_far_ones_after_them() {
        let region = region(3, &[]);
        for (node, ms) in region.nodes.iter().zip([30, 1, 1]) {
            node.record_success(Duration::from_millis(ms));
        }
        assert_eq!(order(&region, None, 0), [1, 2, 0]);
        assert_eq!(order(&region, None, 1)[0], 2);
        assert_eq!(region.round_trip(), Some(Duration::from_millis(1)));
    }

    #[test]
    fn a_region_is_healthy_if_a_node_is_available_and_all_shards_have_leaders() {
        assert!(!region(1, &[]).is_healthy());
        assert!(!region(1, &[Some(0), None]).is_healthy());
        let region = region(1, &[Some(0)]);
        assert!(region.is_healthy());
        region.nodes[0].record_failure(&"refused");
        assert!(!region.is_healthy());
    }

    #[test]
    fn the_first_region_differs_from_the_current_one_only_while_that_is_down() {
        let view = TopologyView {
            shards: 1,
            regions: vec![
                region(2, &[Some(0)]),
                region(1, &[None]),
                region(1, &[Some(0)]),
            ],
            current: 0,
        };
        let fail = |region: usize, node: usize| {
            view.regions[region].nodes[node].record_failure(&"refused")
        };
        fail(0, 0);
        assert_eq!(view.first_region(), 0, "another node may know the leader");
        fail(0, 1);
        assert_eq!(view.first_region(), 2, "the other one has no leader");
        fail(2, 0);
        assert_eq!(view.first_region(), 0, "no region serves");
        view.regions[0].nodes[1].record_success(Duration::from_millis(1));
        view.regions[2].nodes[0].record_success(Duration::from_millis(1));
        assert_eq!(view.first_region(), 0);
    }

    #[test]
    fn nodes_beyond_64_count_as_tried() {
        let mut tried = TriedNodes::default();
        tried.add(63);
        tried.add(64);
        assert!(tried.has(63) && tried.has(64) && !tried.has(0));
    }
}
