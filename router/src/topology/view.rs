//! All that a request's way depends on, at one moment.
//!
//! Invariant: a view never changes, but for what is atomic in its nodes. Whoever holds one sees
//! regions, nodes and leaders that belong together.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::node::Node;

/// Regions and nodes at one moment.
#[derive(Debug)]
pub struct View {
    /// Shards of each region.
    pub shards: u16,
    /// The regions, by their numbers. There is at least one.
    pub regions: Vec<RegionView>,
    /// The one that the global name stands for: its place in `regions`.
    pub current: usize,
}

/// A region.
#[derive(Debug)]
pub struct RegionView {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its name as answers carry it.
    pub header: HeaderValue,
    /// Its nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Per shard, who leads: a place in `nodes`.
    pub leaders: Vec<Option<usize>>,
}

impl View {
    /// The region of this name, in whatever case.
    pub fn region(&self, name: &str) -> Option<usize> {
        let is_it = |region: &RegionView| region.name.eq_ignore_ascii_case(name);
        self.regions.iter().position(is_it)
    }

    /// The names of all regions.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.regions.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    }

    /// Where a request for the global name begins: in the current region or, as long as none of
    /// that one's nodes answers, in the next one in line. Nobody has to be asked in vain for that,
    /// so it costs neither time nor anything of what may be sent again.
    pub fn first_region(&self) -> usize {
        let answers = |region: &RegionView| region.nodes.iter().any(|node| node.is_up());
        if self.regions.get(self.current).is_some_and(answers) {
            return self.current;
        }
        self.next_region(&[self.current]).unwrap_or(self.current)
    }

    /// The healthy region next in line for what the region at `tried` didn't take: the nearest.
    pub fn next_region(&self, tried: &[usize]) -> Option<usize> {
        let healthy = self.regions.iter().enumerate();
        healthy
            .filter(|(place, region)| !tried.contains(place) && region.is_healthy())
            .min_by_key(|(_, region)| region.round_trip().unwrap_or(Duration::MAX))
            .map(|(place, _)| place)
    }
}

impl RegionView {
    /// Whether all that it holds can be served.
    pub fn is_healthy(&self) -> bool {
        self.nodes.iter().any(|node| node.is_available())
            && !self.leaders.is_empty()
            && self.leaders.iter().all(|leader| self.answers(*leader))
    }

    fn answers(&self, leader: Option<usize>) -> bool {
        let node = leader.and_then(|place| self.nodes.get(place));
        node.is_some_and(|node| node.is_up())
    }

    /// The shortest round trip to a node that is available.
    pub fn round_trip(&self) -> Option<Duration> {
        let available = self.nodes.iter().filter(|node| node.is_available());
        available.filter_map(|node| node.round_trip()).min()
    }

    /// The node that a request should go to, of those that it wasn't sent to yet.
    ///
    /// First the leader of its shard; then one of those that are near, in turn, which `turn`
    /// counts; then what is left, those that didn't answer lately last.
    pub fn pick(&self, shard: Option<u16>, tried: &Asked, turn: u32) -> Option<usize> {
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
        self.near(tried, turn).or_else(|| {
            let left = (0..self.nodes.len()).filter(|place| !tried.has(*place));
            left.min_by_key(|place| {
                let node = &self.nodes[*place];
                (!node.is_up(), node.is_draining())
            })
        })
    }

    /// One of the available nodes that are about as near as the nearest.
    fn near(&self, tried: &Asked, turn: u32) -> Option<usize> {
        let trip = |place: usize| {
            let node = &self.nodes[place];
            let trip = || node.round_trip().unwrap_or_default();
            (node.is_available() && !tried.has(place)).then(trip)
        };
        let nearest = (0..self.nodes.len()).filter_map(trip).min()?;
        let bound = nearest + nearest / 3 + Duration::from_millis(1);
        let is_near = |place: &usize| trip(*place).is_some_and(|trip| trip <= bound);
        let near = (0..self.nodes.len()).filter(is_near);
        let count = near.clone().count();
        near.cycle().nth(turn as usize % count.max(1))
    }
}

/// The nodes of a region that a request was sent to, by their places. Of a region with more than
/// 64, the others count as asked: a request isn't sent on that far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked(u64);

impl Asked {
    /// Whether a node was asked.
    pub fn has(&self, place: usize) -> bool {
        let bit = u32::try_from(place)
            .ok()
            .and_then(|at| 1_u64.checked_shl(at));
        bit.is_none_or(|bit| self.0 & bit != 0)
    }

    /// Notes that a node was asked.
    pub fn add(&mut self, place: usize) {
        let bit = u32::try_from(place)
            .ok()
            .and_then(|at| 1_u64.checked_shl(at));
        self.0 |= bit.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Reach;

    fn region(nodes: usize, leaders: &[Option<usize>]) -> RegionView {
        let node = |id| Arc::new(Node::new("c", id as u64, ("a:1", "a:2"), &Reach::default()));
        RegionView {
            number: 1,
            name: "eu".to_owned(),
            header: HeaderValue::from_static("eu"),
            nodes: (0..nodes).map(node).collect(),
            leaders: leaders.to_vec(),
        }
    }

    /// The order in which nodes are asked.
    fn order(region: &RegionView, shard: Option<u16>, turn: u32) -> Vec<usize> {
        let mut tried = Asked::default();
        let mut order = Vec::new();
        while let Some(place) = region.pick(shard, &tried, turn) {
            tried.add(place);
            order.push(place);
        }
        order
    }

    #[test]
    fn the_leader_is_asked_first_and_everybody_once() {
        let region = region(3, &[Some(2), None]);
        for turn in 0..4 {
            let order = order(&region, Some(0), turn);
            assert_eq!(order[0], 2);
            assert_eq!(order.len(), 3);
        }
        // Nobody is known to lead, or there is no such shard: any will do.
        for shard in [None, Some(1), Some(9)] {
            let first: Vec<usize> = (0..3).map(|turn| order(&region, shard, turn)[0]).collect();
            assert_eq!(first, [0, 1, 2], "in turn");
        }
    }

    #[test]
    fn nodes_that_are_down_or_stop_come_last() {
        let region = region(3, &[Some(0)]);
        region.nodes[0].failed(&"refused");
        region.nodes[1].drains(true);
        assert_eq!(order(&region, Some(0), 0), [2, 1, 0]);
    }

    #[test]
    fn near_nodes_take_turns_and_far_ones_come_after_them() {
        let region = region(3, &[]);
        for (node, ms) in region.nodes.iter().zip([30, 1, 1]) {
            node.answered(Duration::from_millis(ms));
        }
        assert_eq!(order(&region, None, 0), [1, 2, 0]);
        assert_eq!(order(&region, None, 1)[0], 2);
        assert_eq!(region.round_trip(), Some(Duration::from_millis(1)));
    }

    #[test]
    fn a_region_is_healthy_if_a_node_answers_and_all_shards_are_led() {
        assert!(!region(1, &[]).is_healthy());
        assert!(!region(1, &[Some(0), None]).is_healthy());
        let region = region(1, &[Some(0)]);
        assert!(region.is_healthy());
        region.nodes[0].failed(&"refused");
        assert!(!region.is_healthy());
    }

    #[test]
    fn the_global_name_begins_elsewhere_only_while_no_node_of_its_region_answers() {
        let view = View {
            shards: 1,
            regions: vec![
                region(2, &[Some(0)]),
                region(1, &[None]),
                region(1, &[Some(0)]),
            ],
            current: 0,
        };
        let fail = |region: usize, node: usize| view.regions[region].nodes[node].failed(&"gone");
        fail(0, 0);
        assert_eq!(view.first_region(), 0, "another node may know who leads");
        fail(0, 1);
        assert_eq!(view.first_region(), 2, "the other one has no leader");
        fail(2, 0);
        assert_eq!(view.first_region(), 0, "nobody serves");
        view.regions[0].nodes[1].answered(Duration::from_millis(1));
        view.regions[2].nodes[0].answered(Duration::from_millis(1));
        assert_eq!(view.first_region(), 0);
    }

    #[test]
    fn nodes_beyond_64_count_as_asked() {
        let mut asked = Asked::default();
        asked.add(63);
        asked.add(64);
        assert!(asked.has(63) && asked.has(64) && !asked.has(0));
    }
}
