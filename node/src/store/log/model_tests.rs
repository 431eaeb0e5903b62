//! Tests the log against a model, also after it is opened again.

use std::collections::BTreeMap;
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{LogSettings, SegmentLog};
use crate::store::keys::GroupId;

/// Settings with segments so small that a few entries fill one.
pub(super) const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 16 << 10,
    max_spares: 3,
};
pub(super) const GROUPS: u16 = 3;

/// Operation on the log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Appends entries: their sizes, and the byte that they are filled with.
    Append(u16, Vec<usize>, u8),
    /// Writes a vote.
    Vote(u16, u8),
    /// Truncates this many entries.
    Truncate(u16, usize),
    /// Purges all but this many entries.
    Purge(u16, usize),
    /// Cleans old segments.
    Clean,
    /// Closes and opens the log.
    Reopen,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    let sizes = proptest::collection::vec(0_usize..3000, 1..6);
    prop_oneof![
        10 => (group.clone(), sizes, any::<u8>()).prop_map(|(a, b, c)| Step::Append(a, b, c)),
        1 => (group.clone(), Just(vec![40_000]), any::<u8>())
            .prop_map(|(a, b, c)| Step::Append(a, b, c)),
        2 => (group.clone(), any::<u8>()).prop_map(|(a, b)| Step::Vote(a, b)),
        2 => (group.clone(), 0_usize..4).prop_map(|(a, b)| Step::Truncate(a, b)),
        3 => (group, 0_usize..8).prop_map(|(a, b)| Step::Purge(a, b)),
        2 => Just(Step::Clean),
        1 => Just(Step::Reopen),
    ]
}

/// Contents of a group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupModel {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Bytes>,
    pub entries: BTreeMap<u64, Bytes>,
    pub next: u64,
}

pub(super) type Model = BTreeMap<u16, GroupModel>;

pub(super) fn open(dir: &TempDir) -> SegmentLog {
    SegmentLog::open(dir.path(), &dir.path().join("log"), SETTINGS).unwrap()
}

/// Performs a step on the log and on the model, and waits until it is durable.
pub(super) fn perform(log: &SegmentLog, model: &mut Model, step: &Step) {
    let (done, wait) = mpsc::channel();
    let done = Box::new(move |result| done.send(result).unwrap());
    match step {
        Step::Append(group, sizes, fill) => {
            let state = model.entry(*group).or_default();
            let from = state.next.max(1);
            let entries: Vec<(u64, Bytes)> = (from..)
                .zip(sizes)
                .map(|(number, size)| (number, Bytes::from(vec![*fill; *size])))
                .collect();
            let committed = Bytes::from((from - 1).to_be_bytes().to_vec());
            let rows = entries
                .iter()
                .map(|(number, entry)| (*number, |out: &mut Vec<u8>| out.extend_from_slice(entry)));
            log.append(GroupId(*group), rows, Some(&committed), done)
                .unwrap();
            state.next = from + sizes.len() as u64;
            state.committed = Some(committed);
            state.entries.extend(entries);
            wait.recv().unwrap().unwrap();
        }
        Step::Vote(group, vote) => {
            log.set_vote(GroupId(*group), &[*vote], done).unwrap();
            model.entry(*group).or_default().vote = Some(Bytes::copy_from_slice(&[*vote]));
            wait.recv().unwrap().unwrap();
        }
        Step::Truncate(group, count) => {
            let state = model.entry(*group).or_default();
            let count = (*count).min(state.entries.len()) as u64;
            state.next -= count;
            log.truncate_from(GroupId(*group), state.next).unwrap();
            state.entries.split_off(&state.next);
        }
        Step::Purge(group, keep) => {
            let state = model.entry(*group).or_default();
            let upto = state.next.saturating_sub(1 + *keep as u64);
            let position = Bytes::from(upto.to_be_bytes().to_vec());
            log.purge(GroupId(*group), upto, &position).unwrap();
            state.entries = state.entries.split_off(&(upto + 1));
            state.purged = Some(position);
        }
        Step::Clean => drop(log.clean().unwrap()),
        Step::Reopen => {}
    }
}

/// Reads the log's contents, in the model's form.
pub(super) fn contents_of(log: &SegmentLog, model: &Model) -> Model {
    let mut contents = Model::new();
    for (group, expected) in model {
        let id = GroupId(*group);
        let entries = log.entries(id, 0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(log.last(id).unwrap().as_ref(), entries.last());
        let state = GroupModel {
            vote: log.vote(id),
            committed: log.committed(id),
            purged: log.purged(id),
            entries: entries.into_iter().collect(),
            next: expected.next,
        };
        contents.insert(*group, state);
    }
    contents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_log_matches_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(&dir);
        let mut model = Model::new();
        for step in &steps {
            if matches!(step, Step::Reopen) {
                drop(log);
                log = open(&dir);
            }
            perform(&log, &mut model, step);
            prop_assert_eq!(contents_of(&log, &model), model.clone(), "after {:?}", step);
        }
        drop(log);
        prop_assert_eq!(contents_of(&open(&dir), &model), model);
    }
}

#[test]
fn files_are_reused_and_their_number_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut model = Model::new();
    // An idle group has an entry in the first segment.
    perform(&log, &mut model, &Step::Append(1, vec![10], 7));
    for _ in 0..400 {
        perform(&log, &mut model, &Step::Append(0, vec![1000, 1000], 1));
        perform(&log, &mut model, &Step::Purge(0, 2));
        perform(&log, &mut model, &Step::Clean);
    }
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    // 800 kB were written; needed are three entries.
    assert!(files <= 12, "{files} files");
    assert_eq!(contents_of(&log, &model), model);
    assert!(log.disk_bytes() < 16 * SETTINGS.segment_bytes);
    drop(log);
    assert_eq!(contents_of(&open(&dir), &model), model);
}

#[test]
fn entries_are_read_up_to_a_size_and_at_least_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut model = Model::new();
    perform(&log, &mut model, &Step::Append(0, vec![100; 5], 1));
    let read = |from, to, bytes| {
        let entries = log.entries(GroupId(0), from, to, bytes).unwrap();
        entries
            .iter()
            .map(|(number, _)| *number)
            .collect::<Vec<_>>()
    };
    assert_eq!(read(2, 5, usize::MAX), [2, 3, 4]);
    assert_eq!(read(1, 6, 1), [1]);
    assert_eq!(read(1, 6, 101), [1, 2]);
    assert_eq!(read(6, 9, usize::MAX), [0_u64; 0]);
    assert_eq!(read(3, 3, usize::MAX), [0_u64; 0]);
    assert_eq!(log.first_within(GroupId(0), 2, u64::MAX), Some(4));
    assert_eq!(log.first_within(GroupId(0), 9, 300), Some(3));
    assert_eq!(log.first_within(GroupId(0), 9, 10), Some(5));
    assert_eq!(log.first_within(GroupId(2), 9, 10), None);
}
