use std::error::Error as _;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use prost::Message;

use super::feature_level::MAX_FEATURE_LEVEL;
use super::test_fixture::{
    GENERATION, MetadataFixture, bootstrap_command, id, placement_command, registration, rows,
    set_state_command,
};
use super::topology::NodeState;
use crate::raft::MachineState;
use crate::store::RowBatch;
use crate::store::keys::RowKind;

fn command_history() -> Vec<Command> {
    let moved = pb::RegisterNode {
        rpc: "elsewhere:1".into(),
        ..registration(2)
    };
    vec![
        Command::Bootstrap(bootstrap_command()),
        Command::RegisterNode(registration(2)),
        Command::RegisterNode(registration(3)),
        Command::SetPlacement(placement_command(0, 1, &[1, 2, 3], &[])),
        Command::SetPlacement(placement_command(1, 1, &[2], &[1])),
        Command::SetPlacement(placement_command(1, 1, &[3], &[])),
        Command::RegisterNode(moved),
        set_state_command(3, pb::NodeState::Leaving),
        Command::SetPlacement(placement_command(0, 2, &[2], &[])),
        set_state_command(3, pb::NodeState::Removed),
        Command::RegisterNode(registration(3)),
    ]
}

#[test]
fn a_history_gives_the_same_in_one_process_and_over_restarts() {
    let (mut straight, mut reopened) = (MetadataFixture::new(false), MetadataFixture::new(true));
    for (step, command) in command_history().into_iter().enumerate() {
        let results = (straight.apply(command.clone()), reopened.apply(command));
        assert_eq!(results.0, results.1, "step {step}");
        assert_eq!(straight.digest(), reopened.digest(), "step {step}");
        assert_eq!(straight.topology(), reopened.topology(), "step {step}");
    }
    let topology = straight.topology();
    assert_eq!(topology.node(id(2)).unwrap().rpc, "elsewhere:1");
    assert_eq!(topology.node(id(3)).unwrap().state, NodeState::Removed);
    assert_eq!(topology.placement(1, 0).unwrap().epoch, 3);
}

#[test]
fn the_digest_depends_on_the_rows_and_not_on_their_history() {
    let (mut detoured, mut direct) = (
        MetadataFixture::bootstrapped(),
        MetadataFixture::bootstrapped(),
    );
    let first = pb::RegisterNode {
        rpc: "other:1".into(),
        ..registration(2)
    };
    detoured.apply(Command::RegisterNode(first)).unwrap();
    assert_ne!(detoured.digest(), direct.digest());
    detoured
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    direct
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    assert_eq!(detoured.digest(), direct.digest());
}

#[test]
fn a_snapshot_publishes_its_topology() {
    let mut fixture = MetadataFixture::bootstrapped();
    let other = rows(GENERATION + 1);
    fixture.copy_rows(other);
    let old = fixture.topology();
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    let catalog = fixture.state.catalog();
    let mut changes = catalog.topology_changes();
    fixture.state.reload(other).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(*catalog.topology(), old);
    changes.mark_unchanged();
    fixture
        .apply(Command::RegisterNode(registration(3)))
        .unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(catalog.topology().node(id(3)).is_some());
}

#[test]
fn only_changes_of_topology_or_header_are_published() {
    let mut fixture = MetadataFixture::new(false);
    let mut changes = fixture.state.catalog().topology_changes();
    let mut is_published = |fixture: &mut MetadataFixture, command| {
        fixture.apply(command).unwrap();
        let is_published = changes.has_changed().unwrap();
        changes.mark_unchanged();
        is_published
    };
    assert!(is_published(
        &mut fixture,
        Command::Bootstrap(bootstrap_command())
    ));
    assert!(is_published(
        &mut fixture,
        Command::RegisterNode(registration(2))
    ));
    assert!(!is_published(
        &mut fixture,
        Command::RegisterNode(registration(2))
    ));
    let bucket = pb::CreateBucket {
        bucket: Bytes::from_static(b"aAAAAAAAAAAAAA"),
        account: Bytes::from_static(&[7; 32]),
        new_account: true,
        access: pb::Access::Public.into(),
        plan: pb::Plan::Free.into(),
        ..Default::default()
    };
    assert!(!is_published(&mut fixture, Command::CreateBucket(bucket)));
    assert!(is_published(
        &mut fixture,
        set_state_command(2, pb::NodeState::Leaving)
    ));
}

#[test]
fn what_joined_after_a_time_can_be_left_out() {
    let mut fixture = MetadataFixture::bootstrapped();
    fixture.time = 2000;
    fixture
        .apply(Command::RegisterNode(registration(2)))
        .unwrap();
    let region = pb::AddRegion {
        name: "later".into(),
        incarnation: 1,
        bootstrap_node: 3,
    };
    fixture.apply(Command::AddRegion(region)).unwrap();
    let added = fixture.topology();
    let before = added.without_joined_after(1000, id(1));
    assert_eq!(
        before.all_regions().len(),
        1,
        "its first node is not there yet"
    );
    fixture
        .apply(Command::RegisterNode(pb::RegisterNode {
            region: "later".into(),
            ..registration(3)
        }))
        .unwrap();
    let topology = fixture.topology();
    let nodes_before = |time, me| {
        let earlier = topology.without_joined_after(time, id(me));
        let nodes: Vec<u64> = earlier.nodes().iter().map(|it| it.id.into()).collect();
        (nodes, earlier.all_regions().len())
    };
    assert_eq!(nodes_before(1000, 1), (vec![1], 1));
    assert_eq!(nodes_before(1999, 2), (vec![1, 2], 1));
    assert_eq!(nodes_before(1999, 3), (vec![1, 3], 2));
    assert_eq!(nodes_before(2000, 1), (vec![1, 2, 3], 2));
}

#[test]
fn metadata_of_a_later_feature_level_is_refused() {
    let mut fixture = MetadataFixture::bootstrapped();
    let copy = rows(GENERATION + 1);
    let mut write = |level| {
        let header = pb::MetaHeader {
            level,
            ..Default::default()
        };
        let mut batch = RowBatch::default();
        batch.put(copy.single(RowKind::Header), header.encode_to_vec());
        fixture.engine.state.write(batch).unwrap();
        fixture.state.reload(copy)
    };
    write(MAX_FEATURE_LEVEL).unwrap();
    let error = write(MAX_FEATURE_LEVEL + 1).unwrap_err();
    let error = error.source().unwrap().to_string();
    assert!(error.contains("upgrade it"), "{error}");
}
