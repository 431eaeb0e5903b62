//! The checker accepts each allowed history, and finds each kind of violation.

use super::judge::judge;
use super::visit::{Origin, Visit};
use crate::checker::{ABSENT, Value};
use crate::faults::call::{Action, Outcome, Record};
use crate::faults::version::Version;

const EU: usize = 0;
const US: usize = 1;

/// Versions in these histories are times of the run, which began at the epoch.
const ORIGIN: Origin = Origin(0);

const SECOND: u64 = 1_000_000_000;

fn version(time: u64) -> Version {
    Version { time, region: 1 }
}

fn visit(region: usize, (start, end): (u64, u64), action: Action, outcome: Outcome) -> Visit {
    Visit::plain(
        region,
        Record {
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

fn of(mut visit: Visit, time: u64) -> Visit {
    visit.record.etag = Some(version(time).etag().into());
    visit
}

fn put(region: usize, times: (u64, u64), value: Value) -> Visit {
    let put = visit(region, times, Action::Put(value), Outcome::Done);
    of(put, times.0 + 1)
}

fn delete(region: usize, times: (u64, u64)) -> Visit {
    let delete = visit(region, times, Action::Delete, Outcome::Done);
    of(delete, times.0 + 1)
}

fn read(region: usize, times: (u64, u64), value: Value, time: u64) -> Visit {
    of(
        visit(region, times, Action::Get, Outcome::Found(value)),
        time,
    )
}

fn absent(region: usize, times: (u64, u64)) -> Visit {
    visit(region, times, Action::Get, Outcome::Found(ABSENT))
}

fn right(calls: &[Visit]) {
    assert_eq!(judge(calls, ORIGIN, None), Ok(()));
}

fn wrong(calls: &[Visit], expected: &str) {
    let error = judge(calls, ORIGIN, None).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn another_region_may_be_late_but_never_goes_back() {
    let written = [put(EU, (10, 20), 1), put(EU, (30, 40), 2)];
    let late = [written.as_slice(), &[read(US, (50, 60), 1, 11)]].concat();
    right(&late);
    let on = [late.as_slice(), &[read(US, (70, 80), 2, 31)]].concat();
    right(&on);
    let back = [on.as_slice(), &[read(US, (90, 95), 1, 11)]].concat();
    wrong(&back, "older");
    // Two concurrent reads have no order.
    let at_once = [on.as_slice(), &[read(US, (75, 95), 1, 11)]].concat();
    right(&at_once);
    let own = [written.as_slice(), &[read(EU, (50, 60), 1, 11)]].concat();
    wrong(&own, "older");
}

#[test]
fn a_token_covers_what_its_client_observed() {
    let written = [put(EU, (10, 20), 1), put(EU, (30, 40), 2)];
    let with_token = |mut read: Visit| {
        read.seen = Some(version(31));
        [written.as_slice(), &[read]].concat()
    };
    right(&with_token(read(US, (50, 60), 2, 31)));
    wrong(&with_token(read(US, (50, 60), 1, 11)), "older");
    wrong(
        &with_token(absent(US, (50, 60))),
        "nothing can have removed",
    );
    let eventual = |mut read: Visit| {
        read.eventual = true;
        read
    };
    wrong(&with_token(eventual(read(EU, (50, 60), 1, 11))), "older");
    right(&[written.as_slice(), &[eventual(read(EU, (50, 60), 1, 11))]].concat());
}

#[test]
fn deleted_values_do_not_return() {
    let deleted = [put(EU, (10, 20), 1), delete(EU, (30, 40))];
    right(&[deleted.as_slice(), &[absent(EU, (50, 60))]].concat());
    wrong(
        &[deleted.as_slice(), &[read(EU, (50, 60), 1, 11)]].concat(),
        "older",
    );
    // The other region has observed the key, then its absence, then the key again.
    let seen = [read(US, (21, 22), 1, 11), absent(US, (50, 60))];
    let deletion_seen = [deleted.as_slice(), &seen].concat();
    right(&deletion_seen);
    wrong(
        &[deletion_seen.as_slice(), &[read(US, (70, 80), 1, 11)]].concat(),
        "returned",
    );
    let lost = [
        put(EU, (10, 20), 1),
        read(US, (30, 40), 1, 11),
        absent(US, (50, 60)),
    ];
    wrong(&lost, "nothing can have removed");
    let unknown = visit(EU, (12, 15), Action::Delete, Outcome::Unknown);
    right(&[lost.as_slice(), &[unknown]].concat());
    let refused = visit(EU, (12, 15), Action::Delete, Outcome::Nothing);
    wrong(
        &[lost.as_slice(), &[refused]].concat(),
        "nothing can have removed",
    );
}

#[test]
fn expired_values_are_not_read() {
    let mut short = put(EU, (SECOND, SECOND + 5), 1);
    short.ttl = Some(2);
    let at = |time: u64| (time, time + 5);
    let seen = |visit: Visit| vec![short.clone(), visit];
    right(&seen(read(US, at(3 * SECOND), 1, SECOND + 1)));
    wrong(&seen(read(US, at(4 * SECOND), 1, SECOND + 1)), "expired");
    right(&seen(absent(EU, at(4 * SECOND))));
    wrong(
        &seen(absent(EU, at(2 * SECOND))),
        "nothing can have removed",
    );
    let then = |last: Visit| [seen(absent(EU, at(3 * SECOND))).as_slice(), &[last]].concat();
    // Clocks of two leaders may differ a little.
    right(&then(read(EU, at(3 * SECOND + 10), 1, SECOND + 1)));
    wrong(&then(read(EU, at(4 * SECOND), 1, SECOND + 1)), "expired");
}

#[test]
fn values_come_from_writes() {
    wrong(&[read(US, (50, 60), 1, 11)], "nobody wrote");
    let refused = visit(EU, (10, 20), Action::Put(1), Outcome::Nothing);
    wrong(&[refused, read(US, (50, 60), 1, 11)], "nobody wrote");
    wrong(
        &[put(EU, (70, 80), 1), read(US, (50, 60), 1, 71)],
        "before it was written",
    );
    wrong(&[put(EU, (10, 20), 1), read(US, (50, 60), 1, 12)], "twice");
    let unknown = visit(EU, (10, 20), Action::Put(1), Outcome::Unknown);
    right(&[unknown, read(US, (50, 60), 1, 15)]);
}

#[test]
fn writes_are_newer_than_what_their_region_had_shown() {
    let early = of(visit(US, (50, 60), Action::Put(2), Outcome::Done), 9);
    let seen = [put(EU, (10, 20), 1), read(US, (30, 40), 1, 11)];
    wrong(
        &[seen.as_slice(), std::slice::from_ref(&early)].concat(),
        "isn't above",
    );
    // In a region that hasn't observed the newer version, the write just loses.
    right(&[seen[0].clone(), early]);
}

#[test]
fn a_condition_saw_its_regions_writes() {
    let swap = |region| {
        let swap = Action::Swap { was: 1, value: 3 };
        of(visit(region, (50, 60), swap, Outcome::Done), 51)
    };
    let written = [put(EU, (10, 20), 1), put(EU, (30, 70), 2)];
    wrong(&[written.as_slice(), &[swap(EU)]].concat(), "condition");
    right(&[written.as_slice(), &[swap(US)]].concat());
}

#[test]
fn the_end_is_the_newest_write() {
    let end = |calls: &[Visit], last: Option<(u64, Value)>| {
        let last = last.map(|(time, value)| (version(time), value));
        judge(calls, ORIGIN, Some((last, 100)))
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
    let unknown = visit(US, (50, 60), Action::Put(3), Outcome::Unknown);
    let unknown = [written.as_slice(), &[unknown]].concat();
    assert_eq!(end(&unknown, Some((55, 3))), Ok(()));
    assert_eq!(end(&unknown, Some((31, 2))), Ok(()));
}
