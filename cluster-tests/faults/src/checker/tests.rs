//! Hand-written histories, linearizable and not.

use super::{ABSENT, Precondition, RegisterOp, SearchBudget, Verdict, check};

fn read(start: u64, end: u64, value: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Equals(value), None)
}

fn write(start: u64, end: u64, value: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Any, Some(value))
}

fn delete(start: u64, end: u64) -> RegisterOp {
    write(start, end, ABSENT)
}

fn cas(start: u64, end: u64, expected: u64, value: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::Equals(expected), Some(value))
}

fn failed_cas(start: u64, end: u64, expected: u64) -> RegisterOp {
    RegisterOp::completed(start, end, Precondition::NotEqual(expected), None)
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
    assert_linearizable(&[read(0, 1, ABSENT), read(0, 2, ABSENT)]);
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
    assert_violated(&[write(0, 1, 1), read(2, 3, ABSENT)]);
    assert_linearizable(&[write(0, 1, 1), delete(0, 1), read(2, 3, ABSENT)]);
}

#[test]
fn reads_do_not_go_back_in_time() {
    assert_violated(&[write(0, 9, 1), read(1, 2, 1), read(3, 4, ABSENT)]);
    assert_linearizable(&[write(0, 9, 1), read(1, 2, ABSENT), read(3, 4, 1)]);
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
    assert_violated(&[failed_cas(0, 1, ABSENT)]);
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
    let unknown = RegisterOp::with_unknown_outcome(0, Precondition::Any, 1);
    assert_linearizable(&[unknown, read(1, 2, ABSENT), read(90, 91, 1)]);
    assert_linearizable(&[unknown, read(1, 2, ABSENT), write(3, 4, 2), read(90, 91, 2)]);
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
        RegisterOp::with_unknown_outcome(2, Precondition::Any, 1),
    ]);
}

#[test]
fn writes_of_unknown_outcome_may_depend_on_each_other() {
    let first = RegisterOp::with_unknown_outcome(0, Precondition::Equals(ABSENT), 1);
    let second = RegisterOp::with_unknown_outcome(0, Precondition::Equals(1), 2);
    assert_linearizable(&[first, second, read(5, 6, ABSENT), read(7, 8, 2)]);
    assert_violated(&[first, second, read(5, 6, 2), read(7, 8, 1)]);
    assert_violated(&[second, read(5, 6, 2)]);
}

#[test]
fn an_unknown_write_that_nobody_read_may_explain_a_failed_condition() {
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, 9);
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
    let unknown = RegisterOp::with_unknown_outcome(2, Precondition::Any, ABSENT);
    assert_linearizable(&[write(0, 1, 1), unknown, read(3, 4, ABSENT)]);
    let again = [write(5, 6, 2), read(7, 8, ABSENT)];
    assert_violated(&[&[write(0, 1, 1), unknown, read(3, 4, ABSENT)][..], &again].concat());
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
