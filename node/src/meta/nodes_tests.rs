use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use prost::Message;

use super::node_refusal::NodeRefusal;
use super::test_fixture::{
    MetadataFixture, bootstrap_command, bootstrap_without_node, id, placement_command,
    registration, set_state_command,
};
use super::topology::{NodeState, Placement};
use super::{CommandRefusal, MAX_FEATURE_LEVEL};
use crate::raft::MachineState;
use crate::store::RowBatch;

/// Bootstrap of a cluster without a node as it is stored since release 0.1, and the digest of the
/// state after it. Neither is ever changed.
const BOOTSTRAP_0_1: &[u8] = b"\
    \x09\x07\x00\x00\x00\x00\x00\x00\x00\x12\x4b\x0a\x01\x63\x10\x04\x18\x01\x22\x02\x65\
    \x75\x29\x09\x00\x00\x00\x00\x00\x00\x00\x32\x0f\x08\x01\x10\x0a\x18\x90\x4e\x20\x40\
    \x28\x80\x20\x32\x01\x01\x32\x10\x08\x02\x18\x80\xc2\xd7\x2f\x20\x40\x28\x80\x20\x32\
    \x02\x01\x02\x32\x12\x08\x03\x18\x80\xc2\xd7\x2f\x20\x40\x28\x80\x80\x01\x32\x03\x01\
    \x02\x03";
const DIGEST_0_1: u64 = 12_243_864_304_304_632_334;

#[test]
fn a_cluster_is_bootstrapped_with_its_first_node_which_has_every_shard() {
    let fixture = MetadataFixture::bootstrapped();
    let topology = fixture.topology();
    let node = topology.node(id(1)).unwrap();
    assert_eq!((node.region, node.state), (1, NodeState::Active));
    assert_eq!((node.rpc.as_str(), node.joined_at), ("n1:7070", 1000));
    let alone = Placement {
        epoch: 1,
        voters: vec![id(1)],
        learners: vec![],
    };
    assert_eq!(topology.shards_of_node(id(1)), [0, 1, 2, 3]);
    assert_eq!(topology.placement(1, 3), Some(&alone));
    assert_eq!(topology.placement(1, 4), None);
    assert_eq!(topology.region_number("eu"), Some(1));
    assert_eq!(topology.region_name(1), Some("eu"));
}

#[test]
fn a_bootstrap_without_a_node_gives_the_state_of_release_0_1() {
    let command = pb::MetaCommand::decode(BOOTSTRAP_0_1).unwrap();
    assert_eq!(command.encode_to_vec(), BOOTSTRAP_0_1);
    assert_eq!(
        command.kind,
        Some(Command::Bootstrap(bootstrap_without_node()))
    );
    let mut fixture = MetadataFixture::new(false);
    fixture
        .apply(Command::Bootstrap(bootstrap_without_node()))
        .unwrap();
    assert_eq!(fixture.digest(), DIGEST_0_1);
    assert!(fixture.topology().nodes().is_empty());
    assert_eq!(fixture.topology().placement(1, 0), None);
}

#[test]
fn a_bootstrap_with_a_bad_address_or_too_many_shards_is_refused() {
    let bad = [
        pb::BootstrapCluster {
            rpc: String::new(),
            ..bootstrap_command()
        },
        pb::BootstrapCluster {
            http: "x".repeat(256),
            ..bootstrap_command()
        },
        pb::BootstrapCluster {
            shards: 65_536,
            ..bootstrap_command()
        },
    ];
    let mut fixture = MetadataFixture::new(false);
    for bootstrap in bad {
        fixture.apply(Command::Bootstrap(bootstrap)).unwrap_err();
        assert_eq!(fixture.state.catalog().header().cluster_id, "");
    }
    fixture
        .apply(Command::Bootstrap(bootstrap_command()))
        .unwrap();
    assert_eq!(
        fixture.apply(Command::Bootstrap(bootstrap_command())),
        Err(CommandRefusal::AlreadyBootstrapped)
    );
}

#[test]
fn a_registration_updates_what_may_change_and_keeps_the_rest() {
    let mut fixture = MetadataFixture::bootstrapped();
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    fixture
        .apply(set_state_command(2, pb::NodeState::Leaving))
        .unwrap();
    let again = pb::RegisterNode {
        rpc: "other:1".into(),
        level: 2,
        version: "0.3.0".into(),
        ..registration(2)
    };
    fixture.apply(Command::RegisterNode(again)).unwrap();
    let topology = fixture.topology();
    let node = topology.node(id(2)).unwrap();
    assert_eq!((node.rpc.as_str(), node.level), ("other:1", 2));
    assert_eq!(node.version, "0.3.0");
    assert_eq!(
        (node.state, node.joined_at),
        (NodeState::Decommissioning, 1000)
    );
}

#[test]
fn registrations_are_refused_with_the_reason() {
    use NodeRefusal as R;
    let mut fixture = MetadataFixture::bootstrapped();
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    fixture
        .apply(Command::RegisterNode(registration(3)))
        .unwrap();
    fixture
        .apply(set_state_command(3, pb::NodeState::Removed))
        .unwrap();
    let changed = |change: fn(&mut pb::RegisterNode)| {
        let mut register = registration(4);
        change(&mut register);
        register
    };
    let cases = [
        (changed(|r| r.node = 0), R::ZeroNodeId),
        (registration(3), R::NodeRemoved { node: id(3) }),
        (changed(|r| r.region = "us".into()), R::UnknownRegion),
        (changed(|r| r.rpc.clear()), R::InvalidAddress { limit: 255 }),
        (
            changed(|r| r.http.clear()),
            R::InvalidAddress { limit: 255 },
        ),
        (
            changed(|r| r.rpc = "x".repeat(256)),
            R::InvalidAddress { limit: 255 },
        ),
        (
            changed(|r| r.http = "x".repeat(256)),
            R::InvalidAddress { limit: 255 },
        ),
        (
            changed(|r| r.version = "x".repeat(256)),
            R::VersionTooLong { limit: 255 },
        ),
        (
            changed(|r| r.rpc = "n2:7070".into()),
            R::AddressTaken { node: id(2) },
        ),
    ];
    for (register, reason) in cases {
        assert_eq!(
            fixture.apply_refused(Command::RegisterNode(register)),
            reason
        );
    }
    // The address of a removed node is free, and the maximum length is accepted.
    let successor = changed(|r| {
        r.rpc = "n3:7070".into();
        r.http = "x".repeat(255);
    });
    fixture.apply(Command::RegisterNode(successor)).unwrap();
}

#[test]
fn a_node_stays_in_its_region() {
    let mut fixture = MetadataFixture::bootstrapped();
    fixture.state.header.regions.push(pb::Region {
        number: 2,
        name: "us".into(),
        incarnation: 1,
        ..Default::default()
    });
    fixture.write_batch(RowBatch::default());
    let moved = pb::RegisterNode {
        region: "us".into(),
        ..registration(1)
    };
    let refusal = fixture.apply_refused(Command::RegisterNode(moved));
    assert_eq!(refusal, NodeRefusal::WrongRegion { node: id(1) });
    let american = pb::RegisterNode {
        region: "us".into(),
        ..registration(2)
    };
    fixture.apply(Command::RegisterNode(american)).unwrap();
    let topology = fixture.topology();
    assert_eq!(
        topology.nodes_of(2).map(|n| n.id).collect::<Vec<_>>(),
        [id(2)]
    );
    let refusal = fixture.apply_refused(Command::SetPlacement(placement_command(0, 1, &[2], &[])));
    assert_eq!(refusal, NodeRefusal::WrongRegion { node: id(2) });
}

#[test]
fn node_states_change_freely_until_a_node_is_removed() {
    use pb::NodeState::{Active, Leaving, Removed, Unspecified};
    let mut fixture = MetadataFixture::bootstrapped();
    for (state, expected) in [
        (Leaving, NodeState::Decommissioning),
        (Leaving, NodeState::Decommissioning),
        (Active, NodeState::Active),
        (Removed, NodeState::Removed),
        (Removed, NodeState::Removed),
    ] {
        fixture.apply(set_state_command(1, state)).unwrap();
        assert_eq!(fixture.topology().node(id(1)).unwrap().state, expected);
    }
    assert_eq!(fixture.topology().nodes_of(1).count(), 0);
    for (node, state, reason) in [
        (1, Active, NodeRefusal::NodeRemoved { node: id(1) }),
        (1, Leaving, NodeRefusal::NodeRemoved { node: id(1) }),
        (1, Unspecified, NodeRefusal::MissingState),
        (2, Active, NodeRefusal::UnknownNode { node: id(2) }),
        (0, Active, NodeRefusal::ZeroNodeId),
    ] {
        assert_eq!(
            fixture.apply_refused(set_state_command(node, state)),
            reason
        );
    }
}

#[test]
fn a_state_of_a_later_version_stops_the_node() {
    let mut fixture = MetadataFixture::bootstrapped();
    let later = Command::SetNodeState(pb::SetNodeState {
        node: 1,
        state: 4,
        ..Default::default()
    });
    let error = fixture.try_apply(later).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn a_placement_follows_the_one_it_was_made_from() {
    let mut fixture = MetadataFixture::bootstrapped();
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    fixture
        .apply(Command::RegisterNode(registration(3)))
        .unwrap();
    let three = Command::SetPlacement(placement_command(2, 1, &[3, 1, 2], &[]));
    fixture.apply(three.clone()).unwrap();
    let topology = fixture.topology();
    let placement = topology.placement(1, 2).unwrap();
    assert_eq!(
        (placement.epoch, placement.preferred_leader()),
        (2, Some(id(3)))
    );
    assert_eq!(topology.shards_of_node(id(3)), [2]);
    assert_eq!(
        fixture.apply_refused(three),
        NodeRefusal::StaleEpoch { epoch: 2 }
    );
}

/// Nodes 1 to 5, of which 4 is being decommissioned and 5 removed.
fn fixture_of_five_nodes() -> MetadataFixture {
    let mut fixture = MetadataFixture::bootstrapped();
    for node in 2..=5 {
        fixture
            .apply(Command::RegisterNode(registration(node)))
            .unwrap();
    }
    fixture
        .apply(set_state_command(5, pb::NodeState::Removed))
        .unwrap();
    fixture
        .apply(set_state_command(4, pb::NodeState::Leaving))
        .unwrap();
    fixture
}

fn assert_refused(
    fixture: &mut MetadataFixture,
    cases: impl IntoIterator<Item = (pb::SetPlacement, NodeRefusal)>,
) {
    for (set, reason) in cases {
        assert_eq!(fixture.apply_refused(Command::SetPlacement(set)), reason);
    }
}

#[test]
fn placements_of_unknown_shards_and_of_other_epochs_are_refused() {
    use NodeRefusal as R;
    let mut fixture = fixture_of_five_nodes();
    let other_region = pb::SetPlacement {
        region: 2,
        ..placement_command(0, 0, &[1], &[])
    };
    let cases = [
        (other_region, R::UnknownRegion),
        (
            placement_command(4, 0, &[1], &[]),
            R::UnknownShard { shards: 4 },
        ),
        (
            placement_command(u32::MAX, 0, &[1], &[]),
            R::UnknownShard { shards: 4 },
        ),
        (
            placement_command(0, 0, &[1], &[]),
            R::StaleEpoch { epoch: 1 },
        ),
        (
            placement_command(0, 2, &[1], &[]),
            R::StaleEpoch { epoch: 1 },
        ),
    ];
    assert_refused(&mut fixture, cases);
}

#[test]
fn placements_are_refused_for_the_members_that_they_name() {
    use NodeRefusal as R;
    let mut fixture = fixture_of_five_nodes();
    let cases = [
        (
            placement_command(0, 1, &[], &[1]),
            R::InvalidVoterCount { voters: 0 },
        ),
        (
            placement_command(0, 1, &[1, 2], &[]),
            R::InvalidVoterCount { voters: 2 },
        ),
        (
            placement_command(0, 1, &[1, 2, 3, 4], &[]),
            R::InvalidVoterCount { voters: 4 },
        ),
        (
            placement_command(0, 1, &[1, 2, 1], &[]),
            R::DuplicateMember { node: id(1) },
        ),
        (
            placement_command(0, 1, &[1], &[2, 1]),
            R::DuplicateMember { node: id(1) },
        ),
        (
            placement_command(0, 1, &[1], &[2, 2]),
            R::DuplicateMember { node: id(2) },
        ),
        (
            placement_command(0, 1, &[9], &[]),
            R::UnknownNode { node: id(9) },
        ),
        (
            placement_command(0, 1, &[1], &[0]),
            R::UnknownNode { node: id(0) },
        ),
        (
            placement_command(0, 1, &[5], &[]),
            R::NodeRemoved { node: id(5) },
        ),
        (
            placement_command(0, 1, &[1], &[5]),
            R::NodeRemoved { node: id(5) },
        ),
    ];
    assert_refused(&mut fixture, cases);
    // A node that is being decommissioned may still be named: it leaves once another node replaces
    // it.
    let set = placement_command(0, 1, &[1, 2, 4], &[]);
    fixture.apply(Command::SetPlacement(set)).unwrap();
}

#[test]
fn nodes_of_one_host_are_told_apart_by_their_addresses() {
    let mut fixture = MetadataFixture::bootstrapped();
    for (node, port) in [(2, 7072), (3, 7073), (4, 7074)] {
        let register = pb::RegisterNode {
            rpc: format!("10.0.0.1:{port}"),
            ..registration(node)
        };
        fixture.apply(Command::RegisterNode(register)).unwrap();
    }
    fixture
        .apply(set_state_command(4, pb::NodeState::Removed))
        .unwrap();
    let topology = fixture.topology();
    let name_of = |number| topology.unique_name(topology.node(id(number)).unwrap());
    assert_eq!([name_of(2), name_of(3)], ["10.0.0.1:7072", "10.0.0.1:7073"]);
    fixture
        .apply(set_state_command(3, pb::NodeState::Removed))
        .unwrap();
    let topology = fixture.topology();
    let left = topology.node(id(2)).unwrap();
    assert_eq!(topology.unique_name(left), "10.0.0.1");
}

#[test]
fn names_and_times_of_removal_are_kept() {
    let mut fixture = MetadataFixture::bootstrapped();
    let named = |node: u64| pb::RegisterNode {
        name: format!("node-{node}"),
        ..registration(node)
    };
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    assert_eq!(fixture.topology().node(id(2)).unwrap().display_name(), "n2");
    fixture.apply(Command::RegisterNode(named(2))).unwrap();
    assert_eq!(
        fixture.topology().node(id(2)).unwrap().display_name(),
        "node-2"
    );
    let too_long = pb::RegisterNode {
        name: "x".repeat(256),
        ..registration(2)
    };
    fixture.apply(Command::RegisterNode(too_long)).unwrap();
    let topology = fixture.topology();
    let node = topology.node(id(2)).unwrap();
    assert_eq!((node.name.as_str(), node.removed_at), ("node-2", 0));
    let removed = set_state_command(2, pb::NodeState::Removed);
    fixture.apply(removed.clone()).unwrap();
    assert_eq!(fixture.topology().node(id(2)).unwrap().removed_at, 1000);
    let again = pb::MetaCommand {
        time: 2000,
        kind: Some(removed),
    };
    let mut batch = RowBatch::default();
    fixture.state.apply(&again, &mut batch).unwrap().unwrap();
    fixture.write_batch(batch);
    assert_eq!(fixture.topology().node(id(2)).unwrap().removed_at, 1000);
}

#[test]
fn a_feature_level_of_a_later_version_stops_the_node() {
    let later = MAX_FEATURE_LEVEL + 1;
    let mut fixture = MetadataFixture::new(false);
    let bootstrap = pb::BootstrapCluster {
        level: later,
        ..bootstrap_command()
    };
    let error = fixture
        .try_apply(Command::Bootstrap(bootstrap))
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    fixture
        .apply(Command::Bootstrap(bootstrap_command()))
        .unwrap();
    let set_level = |level| Command::SetLevel(pb::SetMetaLevel { level });
    let error = fixture.try_apply(set_level(later)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("upgrade it"), "{error}");
    assert_eq!(fixture.state.catalog().header().level, 1);
    fixture.apply(set_level(MAX_FEATURE_LEVEL)).unwrap();
    fixture.apply(set_level(0)).unwrap();
    let header = fixture.state.catalog().header();
    assert_eq!(header.level, MAX_FEATURE_LEVEL);
}

#[test]
fn an_expected_state_must_match_the_current_one() {
    let mut fixture = MetadataFixture::bootstrapped();
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    let remove = Command::SetNodeState(pb::SetNodeState {
        node: 2,
        state: pb::NodeState::Removed.into(),
        expected: pb::NodeState::Leaving.into(),
    });
    let refusal = fixture.apply_refused(remove.clone());
    assert_eq!(refusal, NodeRefusal::UnexpectedState { node: id(2) });
    fixture
        .apply(set_state_command(2, pb::NodeState::Leaving))
        .unwrap();
    fixture.apply(remove).unwrap();
    assert_eq!(
        fixture.topology().node(id(2)).unwrap().state,
        NodeState::Removed
    );
}
