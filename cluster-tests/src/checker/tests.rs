//! Hand-written histories, linearizable and not.

use super::{ABSENT, Budget, Needs, Op, Verdict, check};

fn read(start: u64, end: u64, value: u64) -> Op {
    Op::done(start, end, Needs::Is(value), None)
}

fn write(start: u64, end: u64, value: u64) -> Op {
    Op::done(start, end, Needs::Any, Some(value))
}

fn delete(start: u64, end: u64) -> Op {
    write(start, end, ABSENT)
}

fn cas(start: u64, end: u64, expected: u64, value: u64) -> Op {
    Op::done(start, end, Needs::Is(expected), Some(value))
}

fn failed(start: u64, end: u64, expected: u64) -> Op {
    Op::done(start, end, Needs::Not(expected), None)
}

#[track_caller]
fn right(ops: &[Op]) {
    assert_eq!(check(ops, Budget::default()), Verdict::Linearizable);
    assert!(super::brute::linearizable(ops));
}

#[track_caller]
fn wrong(ops: &[Op]) {
    let verdict = check(ops, Budget::default());
    assert!(matches!(verdict, Verdict::Violated { .. }), "{verdict:?}");
    assert!(!super::brute::linearizable(ops));
}

#[test]
fn an_empty_history_and_reads_of_an_absent_key_are_linearizable() {
    right(&[]);
    right(&[read(0, 1, ABSENT), read(0, 2, ABSENT)]);
}

#[test]
fn a_read_sees_the_last_write_or_one_that_is_under_way() {
    right(&[write(0, 1, 1), read(2, 3, 1)]);
    right(&[write(0, 1, 1), write(2, 5, 2), read(3, 4, 1)]);
    right(&[write(0, 1, 1), write(2, 5, 2), read(3, 4, 2)]);
    wrong(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)]);
}

#[test]
fn a_read_of_an_unwritten_value_is_a_violation() {
    wrong(&[read(0, 1, 7)]);
    wrong(&[read(0, 1, 7), write(2, 3, 7)]);
}

#[test]
fn a_lost_acknowledged_write_is_a_violation() {
    wrong(&[write(0, 1, 1), read(2, 3, ABSENT)]);
    right(&[write(0, 1, 1), delete(0, 1), read(2, 3, ABSENT)]);
}

#[test]
fn reads_do_not_go_back_in_time() {
    wrong(&[write(0, 9, 1), read(1, 2, 1), read(3, 4, ABSENT)]);
    right(&[write(0, 9, 1), read(1, 2, ABSENT), read(3, 4, 1)]);
}

#[test]
fn two_readers_agree_on_the_order_of_two_writes() {
    let writes = [write(0, 9, 1), write(0, 9, 2)];
    let agree = [read(1, 2, 1), read(1, 2, 1), read(3, 4, 2), read(3, 4, 2)];
    right(&[&writes[..], &agree].concat());
    let differ = [read(1, 2, 1), read(3, 4, 2), read(5, 6, 1)];
    wrong(&[&writes[..], &differ].concat());
}

#[test]
fn of_two_that_compare_with_the_same_value_one_succeeds() {
    let first = write(0, 1, 1);
    right(&[first, cas(2, 5, 1, 2), failed(2, 5, 1), read(6, 7, 2)]);
    wrong(&[first, cas(2, 5, 1, 2), cas(2, 5, 1, 3)]);
}

#[test]
fn a_condition_that_fails_without_a_reason_is_a_violation() {
    wrong(&[write(0, 1, 1), failed(2, 3, 1), read(4, 5, 1)]);
    wrong(&[failed(0, 1, ABSENT)]);
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = Op::unknown(0, Needs::Any, 1);
    right(&[unknown, read(1, 2, ABSENT), read(90, 91, 1)]);
    right(&[unknown, read(1, 2, ABSENT), write(3, 4, 2), read(90, 91, 2)]);
    // But not twice, and not before it was sent.
    wrong(&[
        unknown,
        read(1, 2, 1),
        write(3, 4, 2),
        read(5, 6, 2),
        read(7, 8, 1),
    ]);
    wrong(&[read(0, 1, 1), Op::unknown(2, Needs::Any, 1)]);
}

#[test]
fn writes_of_unknown_outcome_may_depend_on_each_other() {
    let first = Op::unknown(0, Needs::Is(ABSENT), 1);
    let second = Op::unknown(0, Needs::Is(1), 2);
    right(&[first, second, read(5, 6, ABSENT), read(7, 8, 2)]);
    wrong(&[first, second, read(5, 6, 2), read(7, 8, 1)]);
    wrong(&[second, read(5, 6, 2)]);
}

#[test]
fn an_unknown_write_that_nobody_read_may_explain_a_failed_condition() {
    let unknown = Op::unknown(2, Needs::Any, 9);
    right(&[
        write(0, 1, 1),
        unknown,
        failed(3, 4, 1),
        write(5, 6, 2),
        read(7, 8, 2),
    ]);
}

#[test]
fn an_unknown_delete_explains_an_absent_key_once() {
    let unknown = Op::unknown(2, Needs::Any, ABSENT);
    right(&[write(0, 1, 1), unknown, read(3, 4, ABSENT)]);
    let again = [write(5, 6, 2), read(7, 8, ABSENT)];
    wrong(&[&[write(0, 1, 1), unknown, read(3, 4, ABSENT)][..], &again].concat());
}

#[test]
fn a_violation_reports_the_longest_order() {
    let ops = [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1), read(6, 7, 2)];
    let Verdict::Violated { placed, stuck } = check(&ops, Budget::default()) else {
        panic!("it is wrong");
    };
    assert_eq!(placed, [0]);
    assert_eq!(stuck, [1]);
}

#[test]
fn a_search_without_budget_decides_nothing() {
    assert_eq!(check(&[write(0, 1, 1)], Budget(0)), Verdict::Undecided);
}

#[test]
#[should_panic(expected = "written twice")]
fn values_must_be_unique() {
    check(&[write(0, 1, 1), write(2, 3, 1)], Budget::default());
}
