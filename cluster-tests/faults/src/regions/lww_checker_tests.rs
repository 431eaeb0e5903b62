//! The checker accepts each allowed history, and finds each kind of violation.

use super::lww_checker::check_key;
use super::region_call::{RegionCall, RunStart};
use crate::call_record::{Action, CallRecord, Outcome};
use crate::checker::{ABSENT, Value};
use crate::version::Version;

const EU: usize = 0;
const US: usize = 1;

/// Versions in these histories are times of the run, which began at the epoch.
const RUN_START: RunStart = RunStart(0);

const NANOS_PER_SEC: u64 = 1_000_000_000;

fn version(time: u64) -> Version {
    Version { time, region: 1 }
}

fn call(region: usize, (start, end): (u64, u64), action: Action, outcome: Outcome) -> RegionCall {
    RegionCall::without_session(
        region,
        CallRecord {
            client: 1,
            seat: 0,
            start,
            end,
            action,
            outcome,
            etag: None,
        },
    )
}

fn with_version(mut visit: RegionCall, time: u64) -> RegionCall {
    visit.record.etag = Some(version(time).etag().into());
    visit
}

fn put(region: usize, times: (u64, u64), value: Value) -> RegionCall {
    let put = call(region, times, Action::Put(value), Outcome::Written);
    with_version(put, times.0 + 1)
}

fn delete(region: usize, times: (u64, u64)) -> RegionCall {
    let delete = call(region, times, Action::Delete, Outcome::Written);
    with_version(delete, times.0 + 1)
}

fn read(region: usize, times: (u64, u64), value: Value, time: u64) -> RegionCall {
    with_version(call(region, times, Action::Get, Outcome::Read(value)), time)
}

fn absent(region: usize, times: (u64, u64)) -> RegionCall {
    call(region, times, Action::Get, Outcome::Read(ABSENT))
}

fn assert_allowed(calls: &[RegionCall]) {
    assert_eq!(check_key(calls, RUN_START, None), Ok(()));
}

fn assert_violation(calls: &[RegionCall], expected: &str) {
    let error = check_key(calls, RUN_START, None).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn another_region_may_be_late_but_never_goes_back() {
    let written = [put(EU, (10, 20), 1), put(EU, (30, 40), 2)];
    let late = [written.as_slice(), &[read(US, (50, 60), 1, 11)]].concat();
    assert_allowed(&late);
    let on = [late.as_slice(), &[read(US, (70, 80), 2, 31)]].concat();
    assert_allowed(&on);
    let back = [on.as_slice(), &[read(US, (90, 95), 1, 11)]].concat();
    assert_violation(&back, "older");
    // Two concurrent reads have no order.
    let at_once = [on.as_slice(), &[read(US, (75, 95), 1, 11)]].concat();
    assert_allowed(&at_once);
    let own = [written.as_slice(), &[read(EU, (50, 60), 1, 11)]].concat();
    assert_violation(&own, "older");
}

#[test]
fn a_token_covers_what_its_client_observed() {
    let written = [put(EU, (10, 20), 1), put(EU, (30, 40), 2)];
    let with_token = |mut read: RegionCall| {
        read.seen = Some(version(31));
        [written.as_slice(), &[read]].concat()
    };
    assert_allowed(&with_token(read(US, (50, 60), 2, 31)));
    assert_violation(&with_token(read(US, (50, 60), 1, 11)), "older");
    assert_violation(
        &with_token(absent(US, (50, 60))),
        "nothing can have removed",
    );
    let eventual = |mut read: RegionCall| {
        read.is_eventual = true;
        read
    };
    assert_violation(&with_token(eventual(read(EU, (50, 60), 1, 11))), "older");
    assert_allowed(&[written.as_slice(), &[eventual(read(EU, (50, 60), 1, 11))]].concat());
}

#[test]
fn deleted_values_do_not_return() {
    let deleted = [put(EU, (10, 20), 1), delete(EU, (30, 40))];
    assert_allowed(&[deleted.as_slice(), &[absent(EU, (50, 60))]].concat());
    assert_violation(
        &[deleted.as_slice(), &[read(EU, (50, 60), 1, 11)]].concat(),
        "older",
    );
    // The other region has observed the key, then its absence, then the key again.
    let seen = [read(US, (21, 22), 1, 11), absent(US, (50, 60))];
    let deletion_seen = [deleted.as_slice(), &seen].concat();
    assert_allowed(&deletion_seen);
    assert_violation(
        &[deletion_seen.as_slice(), &[read(US, (70, 80), 1, 11)]].concat(),
        "returned",
    );
    let lost = [
        put(EU, (10, 20), 1),
        read(US, (30, 40), 1, 11),
        absent(US, (50, 60)),
    ];
    assert_violation(&lost, "nothing can have removed");
    let unknown = call(EU, (12, 15), Action::Delete, Outcome::Unknown);
    assert_allowed(&[lost.as_slice(), &[unknown]].concat());
    let refused = call(EU, (12, 15), Action::Delete, Outcome::NotDone);
    assert_violation(
        &[lost.as_slice(), &[refused]].concat(),
        "nothing can have removed",
    );
}

#[test]
fn expired_values_are_not_read() {
    let mut short = put(EU, (NANOS_PER_SEC, NANOS_PER_SEC + 5), 1);
    short.ttl = Some(2);
    let at = |time: u64| (time, time + 5);
    let seen = |visit: RegionCall| vec![short.clone(), visit];
    assert_allowed(&seen(read(US, at(3 * NANOS_PER_SEC), 1, NANOS_PER_SEC + 1)));
    assert_violation(
        &seen(read(US, at(4 * NANOS_PER_SEC), 1, NANOS_PER_SEC + 1)),
        "expired",
    );
    assert_allowed(&seen(absent(EU, at(4 * NANOS_PER_SEC))));
    assert_violation(
        &seen(absent(EU, at(2 * NANOS_PER_SEC))),
        "nothing can have removed",
    );
    let then =
        |last: RegionCall| [seen(absent(EU, at(3 * NANOS_PER_SEC))).as_slice(), &[last]].concat();
    // Clocks of two leaders may differ a little.
    assert_allowed(&then(read(
        EU,
        at(3 * NANOS_PER_SEC + 10),
        1,
        NANOS_PER_SEC + 1,
    )));
    assert_violation(
        &then(read(EU, at(4 * NANOS_PER_SEC), 1, NANOS_PER_SEC + 1)),
        "expired",
    );
}

#[test]
fn values_come_from_writes() {
    assert_violation(&[read(US, (50, 60), 1, 11)], "nobody wrote");
    let refused = call(EU, (10, 20), Action::Put(1), Outcome::NotDone);
    assert_violation(&[refused, read(US, (50, 60), 1, 11)], "nobody wrote");
    assert_violation(
        &[put(EU, (70, 80), 1), read(US, (50, 60), 1, 71)],
        "before it was written",
    );
    assert_violation(&[put(EU, (10, 20), 1), read(US, (50, 60), 1, 12)], "twice");
    let unknown = call(EU, (10, 20), Action::Put(1), Outcome::Unknown);
    assert_allowed(&[unknown, read(US, (50, 60), 1, 15)]);
}

#[test]
fn writes_are_newer_than_what_their_region_had_shown() {
    let early = with_version(call(US, (50, 60), Action::Put(2), Outcome::Written), 9);
    let seen = [put(EU, (10, 20), 1), read(US, (30, 40), 1, 11)];
    assert_violation(
        &[seen.as_slice(), std::slice::from_ref(&early)].concat(),
        "isn't above",
    );
    // In a region that hasn't observed the newer version, the write just loses.
    assert_allowed(&[seen[0].clone(), early]);
}

#[test]
fn a_condition_saw_its_regions_writes() {
    let swap = |region| {
        let swap = Action::PutIfMatch { was: 1, value: 3 };
        with_version(call(region, (50, 60), swap, Outcome::Written), 51)
    };
    let written = [put(EU, (10, 20), 1), put(EU, (30, 70), 2)];
    assert_violation(&[written.as_slice(), &[swap(EU)]].concat(), "condition");
    assert_allowed(&[written.as_slice(), &[swap(US)]].concat());
}

#[test]
fn the_end_is_the_newest_write() {
    let end = |calls: &[RegionCall], last: Option<(u64, Value)>| {
        let last = last.map(|(time, value)| (version(time), value));
        check_key(calls, RUN_START, Some((last, 100)))
    };
    let written = [put(EU, (10, 20), 1), put(US, (30, 40), 2)];
    assert_eq!(end(&written, Some((31, 2))), Ok(()));
    let lost = end(&written, Some((11, 1))).unwrap_err();
    assert!(lost.contains("older"), "{lost}");
    let gone = end(&written, None).unwrap_err();
    assert!(gone.contains("nothing can have removed"), "{gone}");
    let other = end(&written, Some((31, 1))).unwrap_err();
    assert!(other.contains("not the version"), "{other}");
    let deleted = [written.as_slice(), &[delete(EU, (50, 60))]].concat();
    assert_eq!(end(&deleted, None), Ok(()));
    let back = end(&deleted, Some((31, 2))).unwrap_err();
    assert!(back.contains("older"), "{back}");
    let unknown = call(US, (50, 60), Action::Put(3), Outcome::Unknown);
    let unknown = [written.as_slice(), &[unknown]].concat();
    assert_eq!(end(&unknown, Some((55, 3))), Ok(()));
    assert_eq!(end(&unknown, Some((31, 2))), Ok(()));
}
