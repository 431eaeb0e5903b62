use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::bench::{Bench, ROWS, found, place, register, rows, set_state};
use super::topology::NodeState;
use crate::raft::State;

fn history() -> Vec<Command> {
    let moved = pb::RegisterNode {
        rpc: "elsewhere:1".into(),
        ..register(2)
    };
    vec![
        Command::Found(found()),
        Command::RegisterNode(register(2)),
        Command::RegisterNode(register(3)),
        Command::SetPlacement(place(0, 1, &[1, 2, 3], &[])),
        Command::SetPlacement(place(1, 1, &[2], &[1])),
        Command::SetPlacement(place(1, 1, &[3], &[])),
        Command::RegisterNode(moved),
        set_state(3, pb::NodeState::Leaving),
        Command::SetPlacement(place(0, 2, &[2], &[])),
        set_state(3, pb::NodeState::Removed),
        Command::RegisterNode(register(3)),
    ]
}

#[test]
fn a_history_gives_the_same_in_one_process_and_over_restarts() {
    let (mut straight, mut reopened) = (Bench::new(false), Bench::new(true));
    for (step, command) in history().into_iter().enumerate() {
        let results = (straight.apply(command.clone()), reopened.apply(command));
        assert_eq!(results.0, results.1, "step {step}");
        assert_eq!(straight.digest(), reopened.digest(), "step {step}");
        assert_eq!(straight.topology(), reopened.topology(), "step {step}");
    }
    let topology = straight.topology();
    assert_eq!(topology.node(2).unwrap().rpc, "elsewhere:1");
    assert_eq!(topology.node(3).unwrap().state, NodeState::Removed);
    assert_eq!(topology.placement(1, 0).unwrap().epoch, 3);
}

#[test]
fn the_digest_depends_on_the_rows_and_not_on_their_history() {
    let (mut detoured, mut direct) = (Bench::founded(), Bench::founded());
    let first = pb::RegisterNode {
        rpc: "other:1".into(),
        ..register(2)
    };
    detoured.apply(Command::RegisterNode(first)).unwrap();
    assert_ne!(detoured.digest(), direct.digest());
    detoured.apply(Command::RegisterNode(register(2))).unwrap();
    direct.apply(Command::RegisterNode(register(2))).unwrap();
    assert_eq!(detoured.digest(), direct.digest());
}

#[test]
fn a_snapshot_publishes_its_topology() {
    let mut fixture = Bench::founded();
    let other = rows(ROWS + 1);
    fixture.copy_rows(other);
    let old = fixture.topology();
    fixture.apply(Command::RegisterNode(register(2))).unwrap();
    let catalog = fixture.state.catalog();
    let mut changes = catalog.topology_changes();
    fixture.state.reload(other).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(*catalog.topology(), old);
    changes.mark_unchanged();
    fixture.apply(Command::RegisterNode(register(3))).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(catalog.topology().node(3).is_some());
}

#[test]
fn only_changes_of_topology_or_header_are_published() {
    let mut fixture = Bench::new(false);
    let mut changes = fixture.state.catalog().topology_changes();
    let mut is_published = |fixture: &mut Bench, command| {
        fixture.apply(command).unwrap();
        let is_published = changes.has_changed().unwrap();
        changes.mark_unchanged();
        is_published
    };
    assert!(is_published(&mut fixture, Command::Found(found())));
    assert!(is_published(&mut fixture, Command::RegisterNode(register(2))));
    assert!(!is_published(&mut fixture, Command::RegisterNode(register(2))));
    let bucket = pb::CreateBucket {
        bucket: Bytes::from_static(b"aAAAAAAAAAAAAA"),
        account: Bytes::from_static(&[7; 32]),
        new_account: true,
        access: pb::Access::Public.into(),
        plan: pb::Plan::Free.into(),
        ..Default::default()
    };
    assert!(!is_published(&mut fixture, Command::CreateBucket(bucket)));
    assert!(is_published(&mut fixture, set_state(2, pb::NodeState::Leaving)));
}
