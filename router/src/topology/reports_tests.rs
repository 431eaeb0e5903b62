//! Tests of views that are combined from consistent and contradicting reports.

use super::*;

/// Report of node `id` of two, in one region with two shards.
fn report(id: u64, leaders: [(u64, bool); 2]) -> pb::Topology {
    let node = |id: u64| pb::TopologyNode {
        id,
        region: 1,
        rpc: format!("node{id}:7070"),
        http: format!("node{id}:8080"),
        state: pb::NodeState::Active.into(),
    };
    let leader = |(leader, here)| pb::ShardLeader {
        leader,
        here,
        ready: leader != 0,
    };
    pb::Topology {
        cluster_id: "c".to_owned(),
        node_id: id,
        region: 1,
        shards: 2,
        draining: false,
        regions: vec![pb::TopologyRegion {
            number: 1,
            name: "eu".to_owned(),
        }],
        nodes: vec![node(1), node(2)],
        leaders: leaders.map(leader).to_vec(),
        position: 5,
    }
}

fn leaders(reports: &TopologyReports) -> Vec<Option<u64>> {
    let view = reports.view(1).unwrap();
    let region = &view.regions[0];
    let id = |leader: &Option<usize>| leader.map(|index| u64::from(region.nodes[index].id));
    region.leaders.iter().map(id).collect()
}

#[test]
fn there_is_no_view_before_the_first_report() {
    let reports = TopologyReports::new(ConnectSettings::default());
    assert!(reports.view(1).is_none());
    assert!(reports.samples().is_empty() && !reports.has_node_report());
}

#[test]
fn one_report_describes_all_nodes() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    let first = report(1, [(1, true), (2, false)]);
    reports.update("seed:1", first).unwrap();
    assert_eq!(leaders(&reports), [Some(1), Some(2)]);
    let addresses: Vec<&str> = reports.addresses().collect();
    assert_eq!(addresses, ["node1:7070", "node2:7070"]);
    assert!(!reports.has_node_report(), "only the seed reports");
    reports
        .update("node1:7070", report(1, [(1, true), (2, false)]))
        .unwrap();
    assert!(reports.has_node_report());
    assert_eq!(reports.region_number("eu"), Some(1));
    assert_eq!(reports.region_number("us"), None);
}

#[test]
fn a_leaders_own_report_takes_precedence() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    // The first still takes the second for the leader, whose own report differs.
    reports
        .update("node1:7070", report(1, [(2, false), (1, true)]))
        .unwrap();
    reports
        .update("node2:7070", report(2, [(0, false), (2, false)]))
        .unwrap();
    assert_eq!(leaders(&reports), [None, Some(1)]);
    // Without its report, those of others count.
    reports.remove("node2:7070");
    assert_eq!(leaders(&reports), [Some(2), Some(1)]);
}

#[test]
fn nodes_are_kept_while_their_addresses_stay_the_same() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    let first = report(1, [(1, true), (1, true)]);
    reports.update("node1:7070", first.clone()).unwrap();
    let before: HashMap<NodeId, Arc<Node>> = reports
        .nodes()
        .map(|node| (node.id, node.clone()))
        .collect();
    let mut moved = first;
    moved.nodes[1].http = "elsewhere:8080".to_owned();
    moved.position = 6;
    reports.update("node1:7070", moved).unwrap();
    for node in reports.nodes() {
        assert_eq!(
            Arc::ptr_eq(node, &before[&node.id]),
            node.id == NodeId::from(1)
        );
    }
}

#[test]
fn an_outdated_report_changes_only_its_own_nodes_state() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    reports
        .update("node1:7070", report(1, [(1, true), (1, true)]))
        .unwrap();
    let mut behind = report(2, [(1, false), (2, true)]);
    behind.position = 4;
    behind.nodes.pop();
    behind.draining = true;
    reports.update("node2:7070", behind).unwrap();
    assert_eq!(reports.nodes().count(), 2);
    let draining: Vec<NodeId> = reports
        .nodes()
        .filter(|node| node.is_draining())
        .map(|node| node.id)
        .collect();
    assert_eq!(draining, [NodeId::from(2)]);
    // Its draining state is kept without its report.
    reports.remove("node2:7070");
    assert!(reports.nodes().any(|node| node.is_draining()));
}

#[test]
fn nodes_of_another_cluster_are_refused() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    let first = report(1, [(1, true), (1, true)]);
    reports.update("node1:7070", first.clone()).unwrap();
    let other = pb::Topology {
        cluster_id: "other".to_owned(),
        position: 99,
        ..first
    };
    assert!(reports.update("node3:7070", other).is_err());
    assert_eq!(leaders(&reports), [Some(1), Some(1)]);
}

#[test]
fn an_invalid_report_yields_no_view() {
    let mut reports = TopologyReports::new(ConnectSettings::default());
    reports.update("a:1", pb::Topology::default()).unwrap();
    assert!(reports.view(1).is_none());
}
