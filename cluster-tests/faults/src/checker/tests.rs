//! Hand-written histories, linearizable and not.

use super::{
    ABSENT, BatchPosition, Content, Effect, Precondition, RegisterOp, SearchBudget, Verdict, check,
};

fn read(start: u64, end: u64, value: u64) -> RegisterOp {
    read_content(start, end, Content::plain(value))
}

fn read_content(start: u64, end: u64, content: Content) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Equals(content), Effect::Nothing)
}

fn write(start: u64, end: u64, value: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Any, put(value))
}

fn put(value: u64) -> Effect {
    Effect::Put(Content::plain(value))
}

fn delete(start: u64, end: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Any, Effect::Delete)
}

fn cas(start: u64, end: u64, expected: u64, value: u64) -> RegisterOp {
    let expected = Precondition::Equals(Content::plain(expected));
    RegisterOp::completed(start, end, expected, put(value))
}

fn failed_cas(start: u64, end: u64, expected: u64) -> RegisterOp {
    let expected = Precondition::NotEqual(Content::plain(expected));
    RegisterOp::completed(start, end, expected, Effect::Nothing)
}

const PRESENT: Precondition = Precondition::NotEqual(ABSENT);

fn touch(start: u64, end: u64, metadata: u64) -> RegisterOp {
    RegisterOp::completed(start, end, PRESENT, Effect::Touch(metadata))
}

/// Puts operations into batch 1, each into a stage of its own.
fn batch(ops: impl IntoIterator<Item = RegisterOp>) -> Vec<RegisterOp> {
    let in_stage = |(stage, op): (u32, RegisterOp)| {
        let batch = BatchPosition { batch: 1, stage };
        op.in_batch(Some(batch))
    };
    (0..).zip(ops).map(in_stage).collect()
}

#[track_caller]
fn assert_linearizable(ops: &[RegisterOp]) {
    assert_eq!(check(ops, SearchBudget::default()), Verdict::Linearizable);
    assert!(super::brute_force::is_linearizable(ops));
}

#[track_caller]
fn assert_violated(ops: &[RegisterOp]) {
    let verdict = check(ops, SearchBudget::default());
    assert!(matches!(verdict, Verdict::Violated { .. }), "{verdict:?}");
    assert!(!super::brute_force::is_linearizable(ops));
}

#[test]
fn an_empty_history_and_reads_of_an_absent_key_are_linearizable() {
    assert_linearizable(&[]);
    assert_linearizable(&[read(0, 1, 0), read(0, 2, 0)]);
}

#[test]
fn a_read_sees_the_last_write_or_one_that_is_under_way() {
    assert_linearizable(&[write(0, 1, 1), read(2, 3, 1)]);
    assert_linearizable(&[write(0, 1, 1), write(2, 5, 2), read(3, 4, 1)]);
    assert_linearizable(&[write(0, 1, 1), write(2, 5, 2), read(3, 4, 2)]);
    assert_violated(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)]);
}

#[test]
fn a_read_of_an_unwritten_value_is_a_violation() {
    assert_violated(&[read(0, 1, 7)]);
    assert_violated(&[read(0, 1, 7), write(2, 3, 7)]);
}

#[test]
fn a_lost_acknowledged_write_is_a_violation() {
    assert_violated(&[write(0, 1, 1), read(2, 3, 0)]);
    assert_linearizable(&[write(0, 1, 1), delete(0, 1), read(2, 3, 0)]);
}

#[test]
fn reads_do_not_go_back_in_time() {
    assert_violated(&[write(0, 9, 1), read(1, 2, 1), read(3, 4, 0)]);
    assert_linearizable(&[write(0, 9, 1), read(1, 2, 0), read(3, 4, 1)]);
}

#[test]
fn two_readers_agree_on_the_order_of_two_writes() {
    let writes = [write(0, 9, 1), write(0, 9, 2)];
    let agree = [read(1, 2, 1), read(1, 2, 1), read(3, 4, 2), read(3, 4, 2)];
    assert_linearizable(&[&writes[..], &agree].concat());
    let differ = [read(1, 2, 1), read(3, 4, 2), read(5, 6, 1)];
    assert_violated(&[&writes[..], &differ].concat());
}

#[test]
fn of_two_that_compare_with_the_same_value_one_succeeds() {
    let first = write(0, 1, 1);
    assert_linearizable(&[first, cas(2, 5, 1, 2), failed_cas(2, 5, 1), read(6, 7, 2)]);
    assert_violated(&[first, cas(2, 5, 1, 2), cas(2, 5, 1, 3)]);
}

#[test]
fn a_condition_that_fails_without_a_reason_is_a_violation() {
    assert_violated(&[write(0, 1, 1), failed_cas(2, 3, 1), read(4, 5, 1)]);
    assert_violated(&[failed_cas(0, 1, 0)]);
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = RegisterOp::with_unknown_outcome(0, Precondition::Any, put(1));
    assert_linearizable(&[unknown, read(1, 2, 0), read(90, 91, 1)]);
    assert_linearizable(&[unknown, read(1, 2, 0), write(3, 4, 2), read(90, 91, 2)]);
    // But not twice, and not before it was sent.
    assert_violated(&[
        unknown,
        read(1, 2, 1),
        write(3, 4, 2),
        read(5, 6, 2),
        read(7, 8, 1),
    ]);
    assert_violated(&[
        read(0, 1, 1),
        RegisterOp::with_unknown_outcome(2, Precondition::Any, put(1)),
    ]);
}

#[test]
fn writes_of_unknown_outcome_may_depend_on_each_other() {
    let first = RegisterOp::with_unknown_outcome(0, Precondition::Equals(ABSENT), put(1));
    let after_first = Precondition::Equals(Content::plain(1));
    let second = RegisterOp::with_unknown_outcome(0, after_first, put(2));
    assert_linearizable(&[first, second, read(5, 6, 0), read(7, 8, 2)]);
    assert_violated(&[first, second, read(5, 6, 2), read(7, 8, 1)]);
    assert_violated(&[second, read(5, 6, 2)]);
}

#[test]
fn an_unknown_write_that_nobody_read_may_explain_a_failed_condition() {
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, put(9));
    assert_linearizable(&[
        write(0, 1, 1),
        unknown,
        failed_cas(3, 4, 1),
        write(5, 6, 2),
        read(7, 8, 2),
    ]);
}

#[test]
fn an_unknown_delete_explains_an_absent_key_once() {
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, Effect::Delete);
    assert_linearizable(&[write(0, 1, 1), unknown, read(3, 4, 0)]);
    let again = [write(5, 6, 2), read(7, 8, 0)];
    assert_violated(&[&[write(0, 1, 1), unknown, read(3, 4, 0)][..], &again].concat());
}

#[test]
fn a_touch_keeps_the_value_and_replaces_the_metadata() {
    let touched = Content::plain(1).touched(7);
    let ops = [write(0, 1, 1), touch(2, 3, 7)];
    assert_linearizable(&[&ops[..], &[read_content(4, 5, touched)]].concat());
    assert_violated(&[&ops[..], &[read(4, 5, 1)]].concat());
    assert_violated(
        &[
            &ops[..],
            &[read_content(4, 5, Content::plain(1).touched(8))],
        ]
        .concat(),
    );
    let replaced = [&ops[..], &[write(4, 5, 2)]].concat();
    assert_linearizable(&[&replaced[..], &[read(6, 7, 2)]].concat());
    assert_violated(&[&replaced[..], &[read_content(6, 7, touched)]].concat());
}

#[test]
fn metadata_of_one_version_with_the_value_of_another_is_a_violation() {
    let torn = Content::plain(2).touched(7);
    let before = [write(0, 1, 1), touch(2, 3, 7)];
    assert_violated(&[&before[..], &[write(4, 5, 2), read_content(6, 7, torn)]].concat());
    // While both are under way, either may be the first.
    let at_once = [write(0, 1, 1), touch(2, 9, 7), write(2, 9, 2)];
    assert_linearizable(&[&at_once[..], &[read_content(6, 7, torn)]].concat());
    assert_linearizable(&[&at_once[..], &[read(6, 7, 2)]].concat());
    let both = [
        read_content(6, 7, Content::plain(1).touched(7)),
        read_content(8, 9, torn),
    ];
    assert_violated(&[&at_once[..], &both].concat());
}

#[test]
fn a_touch_needs_a_key() {
    let no_key = read(2, 3, 0);
    assert_violated(&[touch(0, 1, 7)]);
    assert_violated(&[write(0, 1, 1), delete(2, 3), touch(4, 5, 7)]);
    assert_linearizable(&[no_key, write(4, 5, 1), touch(6, 7, 7)]);
    assert_violated(&[write(0, 1, 1), no_key]);
}

#[test]
fn a_touch_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = RegisterOp::with_unknown_outcome(2, PRESENT, Effect::Touch(7));
    let before = [write(0, 1, 1), unknown, read(3, 4, 1), write(5, 6, 2)];
    let late = read_content(7, 8, Content::plain(2).touched(7));
    assert_linearizable(&[&before[..], &[read(7, 8, 2)]].concat());
    assert_linearizable(&[&before[..], &[late]].concat());
    assert_violated(&[&before[..], &[late, read(9, 10, 2)]].concat());
}

#[test]
fn a_put_of_unknown_outcome_may_be_seen_with_later_metadata_only() {
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, put(2));
    let touched = read_content(7, 8, Content::plain(2).touched(7));
    assert_linearizable(&[write(0, 1, 1), unknown, touch(3, 6, 7), touched]);
    let twice = read_content(9, 10, Content::plain(2).touched(8));
    let touches = [touch(3, 4, 7), touch(5, 6, 8)];
    assert_linearizable(&[&[write(0, 1, 1), unknown][..], &touches, &[twice]].concat());
    // It was done before the first touch, since it depends on the value alone.
    let first = Precondition::Equals(Content::plain(1));
    let unknown = RegisterOp::with_unknown_outcome(2, first, put(2));
    assert_linearizable(&[&[write(0, 1, 1), unknown][..], &touches, &[twice]].concat());
}

#[test]
fn operations_of_a_batch_on_one_key_are_done_in_their_order() {
    let before = write(0, 1, 1);
    let ordered = batch([write(2, 9, 2), read(2, 9, 2), write(2, 9, 3)]);
    assert_linearizable(&[&[before][..], &ordered, &[read(10, 11, 3)]].concat());
    assert_violated(&[&[before][..], &ordered, &[read(10, 11, 2)]].concat());
    let reordered = batch([write(2, 9, 2), read(2, 9, 1)]);
    assert_violated(&[&[before][..], &reordered].concat());
    // Without a batch the read may come first.
    assert_linearizable(&[before, write(2, 9, 2), read(2, 9, 1)]);
    // Others may come in between.
    let other = write(3, 4, 4);
    let interrupted = batch([write(2, 9, 2), read(2, 9, 4)]);
    assert_linearizable(&[&[before, other][..], &interrupted].concat());
}

#[test]
fn a_write_of_a_batch_whose_outcome_is_unknown_may_be_done_after_the_next() {
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, put(2));
    let ops = batch([unknown, write(2, 9, 3)]);
    for last in [2, 3] {
        assert_linearizable(&[&ops[..], &[read(10, 11, last)]].concat());
    }
    let ops = batch([write(2, 9, 3), unknown]);
    assert_linearizable(&[&ops[..], &[read(10, 11, 2)]].concat());
    assert_violated(&[&ops[..], &[read(10, 11, 2), read(12, 13, 3)]].concat());
    // It can't have been done before what came before it.
    assert_violated(&[&ops[..], &[read(3, 4, 2), read(10, 11, 3)]].concat());
}

#[test]
fn a_violation_reports_the_longest_order() {
    let ops = [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1), read(6, 7, 2)];
    let Verdict::Violated { placed, stuck } = check(&ops, SearchBudget::default()) else {
        panic!("it is wrong");
    };
    assert_eq!(placed, [0]);
    assert_eq!(stuck, [1]);
}

#[test]
fn a_search_without_budget_decides_nothing() {
    assert_eq!(
        check(&[write(0, 1, 1)], SearchBudget(0)),
        Verdict::Undecided
    );
}

#[test]
#[should_panic(expected = "written twice")]
fn values_must_be_unique() {
    check(&[write(0, 1, 1), write(2, 3, 1)], SearchBudget::default());
}
