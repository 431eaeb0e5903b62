//! Histories with batches and touches: correct ones pass, and those of a defective server don't.

use super::*;
use crate::checker::BatchPosition;

const FIRST: Content = Content {
    value: 1,
    metadata: 0,
};
const SECOND: Content = Content {
    value: 2,
    metadata: 2,
};

fn call((start, end): (u64, u64), action: Action, outcome: Outcome) -> CallRecord {
    CallRecord {
        client: 1,
        seat: 0,
        start,
        end,
        action,
        outcome,
        etag: None,
        batch: None,
    }
}

fn put(times: (u64, u64), content: Content) -> CallRecord {
    call(times, Action::Put(content), Outcome::Written)
}

fn touch(times: (u64, u64), metadata: u64) -> CallRecord {
    call(times, Action::Touch(metadata), Outcome::Written)
}

fn read(times: (u64, u64), content: Content) -> CallRecord {
    call(times, Action::Get, Outcome::Read(content))
}

/// Makes the calls operations of one batch on one key, each in a stage of its own.
fn batch(calls: impl IntoIterator<Item = CallRecord>) -> Vec<CallRecord> {
    let in_stage = |(stage, call): (u32, CallRecord)| CallRecord {
        batch: Some(BatchPosition { batch: 9, stage }),
        ..call
    };
    (0..).zip(calls).map(in_stage).collect()
}

fn assert_passes(parts: &[&[CallRecord]]) {
    assert_eq!(check_history(&parts.concat()), Ok(()));
}

fn assert_fails(parts: &[&[CallRecord]]) {
    let error = check_history(&parts.concat()).unwrap_err();
    assert!(error.contains("not linearizable"), "{error}");
}

#[test]
fn a_lost_operation_of_a_batch_is_found() {
    let before = [put((0, 1), FIRST)];
    let delete = call((4, 5), Action::Delete, Outcome::Written);
    let lines = batch([put((2, 9), SECOND)]);
    assert_passes(&[&before, &lines, &[read((10, 11), SECOND)]]);
    assert_fails(&[&before, &lines, &[read((10, 11), FIRST)]]);
    assert_passes(&[&before, &[delete], &lines, &[read((10, 11), ABSENT)]]);
    // A line of unknown outcome may be lost, and one that was refused is.
    for outcome in [Outcome::Unknown, Outcome::NotDone] {
        let lines = batch([call((2, 9), Action::Put(SECOND), outcome)]);
        assert_passes(&[&before, &lines, &[read((10, 11), FIRST)]]);
    }
    let refused = batch([call((2, 9), Action::Put(SECOND), Outcome::NotDone)]);
    assert_fails(&[&before, &refused, &[read((10, 11), SECOND)]]);
}

#[test]
fn a_torn_touch_is_found() {
    let before = [put((0, 1), FIRST), put((2, 3), SECOND)];
    let touched = [touch((4, 5), 7)];
    assert_passes(&[&before, &touched, &[read((6, 7), SECOND.touched(7))]]);
    for torn in [FIRST.touched(7), SECOND, FIRST] {
        assert_fails(&[&before, &touched, &[read((6, 7), torn)]]);
    }
    let replaced = [put((6, 7), Content::plain(3))];
    let torn = read((8, 9), Content::plain(3).touched(7));
    assert_fails(&[&before, &touched, &replaced, &[torn]]);
    // A touch that found no key, where there was one.
    let missing = call((4, 5), Action::Touch(7), Outcome::NotFound);
    assert_fails(&[&before, &[missing]]);
}

#[test]
fn operations_on_one_key_in_another_order_than_that_of_the_batch_are_found() {
    let before = [put((0, 1), FIRST)];
    let times = (2, 9);
    let ordered = batch([
        put(times, SECOND),
        touch(times, 7),
        read(times, SECOND.touched(7)),
    ]);
    assert_passes(&[&before, &ordered]);
    let reordered = batch([touch(times, 7), put(times, SECOND)]);
    assert_passes(&[&before, &reordered, &[read((10, 11), SECOND)]]);
    assert_fails(&[&before, &reordered, &[read((10, 11), SECOND.touched(7))]]);
    let early_read = batch([put(times, SECOND), read(times, FIRST)]);
    assert_fails(&[&before, &early_read]);
    let condition = Action::PutIfMatch {
        was: FIRST,
        content: Content::plain(3),
    };
    let late_write = batch([call(times, condition, Outcome::Written), put(times, SECOND)]);
    assert_passes(&[&before, &late_write, &[read((10, 11), SECOND)]]);
    let early_write = batch([put(times, SECOND), call(times, condition, Outcome::Written)]);
    assert_fails(&[&before, &early_write]);
}

#[test]
fn a_batch_without_an_answer_may_be_done_in_part_and_later() {
    let before = [put((0, 1), FIRST)];
    let lost = batch([
        call((2, 9), Action::Put(SECOND), Outcome::Unknown),
        call((2, 9), Action::Touch(7), Outcome::Unknown),
        call((2, 9), Action::Get, Outcome::Unknown),
    ]);
    for last in [FIRST, FIRST.touched(7), SECOND, SECOND.touched(7)] {
        assert_passes(&[
            &before,
            &lost,
            &[read((10, 11), FIRST), read((90, 91), last)],
        ]);
        let possible = possible_contents(FIRST, &lost);
        assert!(possible.contains(&last), "{last}");
    }
    let twice = [read((10, 11), SECOND), read((12, 13), FIRST)];
    assert_fails(&[&before, &lost, &twice]);
    assert_eq!(possible_contents(FIRST, &lost).len(), 4);
}
