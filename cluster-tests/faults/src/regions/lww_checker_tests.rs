//! The checker accepts each allowed history, and finds each kind of violation.

use super::lww_checker::check_key;
use super::region_call::{RegionCall, RunStart};
use crate::call_record::{Action, CallRecord, Outcome};
use crate::checker::{ABSENT, BatchPosition, Content, WriteId};
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
            batch: None,
        },
    )
}

fn with_version(mut visit: RegionCall, time: u64) -> RegionCall {
    visit.record.etag = Some(version(time).etag().into());
    visit
}

fn write(value: WriteId) -> Action {
    Action::Put(Content::plain(value))
}

fn put(region: usize, times: (u64, u64), value: WriteId) -> RegionCall {
    let put = call(region, times, write(value), Outcome::Written);
    with_version(put, times.0 + 1)
}

fn touch(region: usize, times: (u64, u64), metadata: WriteId) -> RegionCall {
    let touch = call(region, times, Action::Touch(metadata), Outcome::Written);
    with_version(touch, times.0 + 1)
}

fn delete(region: usize, times: (u64, u64)) -> RegionCall {
    let delete = call(region, times, Action::Delete, Outcome::Written);
    with_version(delete, times.0 + 1)
}

fn read(region: usize, times: (u64, u64), value: WriteId, time: u64) -> RegionCall {
    read_content(region, times, Content::plain(value), time)
}

fn read_content(region: usize, times: (u64, u64), content: Content, time: u64) -> RegionCall {
    let read = call(region, times, Action::Get, Outcome::Read(content));
    with_version(read, time)
}

fn absent(region: usize, times: (u64, u64)) -> RegionCall {
    call(region, times, Action::Get, Outcome::Read(ABSENT))
}

/// Makes the calls operations of one batch, each in a stage of its own.
fn batch(calls: impl IntoIterator<Item = RegionCall>) -> Vec<RegionCall> {
    let in_stage = |(stage, mut call): (u32, RegionCall)| {
        call.record.batch = Some(BatchPosition { batch: 9, stage });
        call
    };
    (0..).zip(calls).map(in_stage).collect()
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
    let refused = call(EU, (10, 20), write(1), Outcome::NotDone);
    assert_violation(&[refused, read(US, (50, 60), 1, 11)], "nobody wrote");
    assert_violation(
        &[put(EU, (70, 80), 1), read(US, (50, 60), 1, 71)],
        "before it was written",
    );
    assert_violation(&[put(EU, (10, 20), 1), read(US, (50, 60), 1, 12)], "twice");
    let unknown = call(EU, (10, 20), write(1), Outcome::Unknown);
    assert_allowed(&[unknown, read(US, (50, 60), 1, 15)]);
}

#[test]
fn writes_are_newer_than_what_their_region_had_shown() {
    let early = with_version(call(US, (50, 60), write(2), Outcome::Written), 9);
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
        let swap = Action::PutIfMatch {
            was: Content::plain(1),
            content: Content::plain(3),
        };
        with_version(call(region, (50, 60), swap, Outcome::Written), 51)
    };
    let written = [put(EU, (10, 20), 1), put(EU, (30, 70), 2)];
    assert_violation(&[written.as_slice(), &[swap(EU)]].concat(), "condition");
    assert_allowed(&[written.as_slice(), &[swap(US)]].concat());
}

#[test]
fn the_end_is_the_newest_write() {
    let end = |calls: &[RegionCall], last: Option<(u64, WriteId)>| {
        let last = last.map(|(time, value)| (version(time), Content::plain(value)));
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
    let unknown = call(US, (50, 60), write(3), Outcome::Unknown);
    let unknown = [written.as_slice(), &[unknown]].concat();
    assert_eq!(end(&unknown, Some((55, 3))), Ok(()));
    assert_eq!(end(&unknown, Some((31, 2))), Ok(()));
}

#[test]
fn a_touch_keeps_the_value_of_its_region() {
    let touched = Content::plain(1).touched(7);
    let written = [put(EU, (10, 20), 1), touch(US, (30, 40), 7)];
    let seen = |read: RegionCall| [written.as_slice(), &[read]].concat();
    assert_allowed(&seen(read_content(EU, (50, 60), touched, 31)));
    assert_allowed(&seen(read(EU, (50, 60), 1, 11)));
    assert_violation(&seen(read(US, (50, 60), 1, 11)), "older");
    assert_violation(&seen(read(US, (50, 60), 1, 31)), "twice");
    assert_violation(
        &seen(read_content(EU, (50, 60), Content::plain(2).touched(7), 31)),
        "nobody wrote",
    );
    let never = Content::plain(1).touched(8);
    assert_violation(&seen(read_content(EU, (50, 60), never, 41)), "nobody wrote");
    let other = Content::with_metadata(1);
    assert_violation(&seen(read_content(EU, (50, 60), other, 11)), "two contents");
    // It depends on the region which value it finds.
    let twice = [put(US, (22, 25), 2), written[0].clone(), written[1].clone()];
    let last = |content| [twice.as_slice(), &[read_content(EU, (50, 60), content, 31)]].concat();
    assert_allowed(&last(Content::plain(2).touched(7)));
    assert_violation(&last(touched), "its value was replaced");
    let newer = [put(EU, (42, 45), 3), touch(US, (30, 40), 7)];
    let torn = read_content(EU, (50, 60), Content::plain(3).touched(7), 31);
    assert_violation(
        &[newer.as_slice(), &[torn]].concat(),
        "newer than its metadata",
    );
}

#[test]
fn a_touch_may_keep_a_value_that_another_region_has_touched_meanwhile() {
    // The touch in the US wins over the newer value of the EU, which it hadn't seen.
    let calls = |us_touch: bool| {
        let mut calls = vec![
            put(US, (10, 20), 1),
            put(EU, (30, 40), 2),
            touch(EU, (70, 80), 7),
            read_content(EU, (90, 99), Content::plain(1).touched(7), 71),
        ];
        calls.extend(us_touch.then(|| touch(US, (50, 60), 8)));
        calls
    };
    assert_allowed(&calls(true));
    assert_violation(&calls(false), "its value was replaced");
}

#[test]
fn a_conditional_touch_was_of_what_it_required() {
    let was = Content::plain(1);
    let action = Action::TouchIfMatch { was, metadata: 7 };
    let unknown = call(EU, (30, 40), action, Outcome::Unknown);
    let written = [put(EU, (10, 20), 1), put(US, (12, 20), 2), unknown];
    let seen = |content, time| {
        let read = read_content(US, (50, 60), content, time);
        [written.as_slice(), &[read]].concat()
    };
    assert_allowed(&seen(was.touched(7), 31));
    let torn = Content::plain(2).touched(7);
    assert_violation(&seen(torn, 31), "belongs to another value");
}

#[test]
fn a_touch_of_no_key_saw_that_there_is_none() {
    let missing = call(EU, (50, 60), Action::Touch(7), Outcome::NotFound);
    let deleted = [put(EU, (10, 20), 1), delete(EU, (30, 40))];
    assert_allowed(&[deleted.as_slice(), std::slice::from_ref(&missing)].concat());
    assert_violation(&[deleted[0].clone(), missing], "nothing can have removed");
}

#[test]
fn a_touched_value_expires_as_before() {
    let mut short = put(EU, (NANOS_PER_SEC, NANOS_PER_SEC + 5), 1);
    short.ttl = Some(2);
    let touched = NANOS_PER_SEC + 10;
    let written = [short, touch(US, (touched, touched + 5), 7)];
    let content = Content::plain(1).touched(7);
    let at = |time: u64| (time, time + 5);
    let seen = |calls: &[RegionCall]| [written.as_slice(), calls].concat();
    let in_time = read_content(US, at(2 * NANOS_PER_SEC), content, touched + 1);
    assert_allowed(&seen(std::slice::from_ref(&in_time)));
    let late = read_content(US, at(4 * NANOS_PER_SEC), content, touched + 1);
    assert_violation(&seen(&[late]), "expired");
    let expired = |time: u64| [in_time.clone(), absent(US, at(time))];
    assert_allowed(&seen(&expired(4 * NANOS_PER_SEC)));
    assert_violation(
        &seen(&expired(2 * NANOS_PER_SEC + 10)),
        "nothing can have removed",
    );
    // Also if no call has shown which value the touch kept.
    assert_allowed(&seen(&[absent(US, at(4 * NANOS_PER_SEC))]));
    assert_violation(
        &seen(&[absent(US, at(2 * NANOS_PER_SEC))]),
        "nothing can have removed",
    );
}

#[test]
fn operations_of_a_batch_observe_those_before_them() {
    let times = (30, 40);
    let before = put(EU, (10, 20), 1);
    let with = |calls: Vec<RegionCall>| [std::slice::from_ref(&before), calls.as_slice()].concat();
    let second = put(EU, times, 2);
    let third = with_version(call(EU, times, write(3), Outcome::Written), 33);
    let ordered = [second.clone(), read(EU, times, 2, 31), third.clone()];
    assert_allowed(&with(batch(ordered)));
    assert_violation(&with(batch([third, second.clone()])), "isn't above");
    let stale = [second.clone(), read(EU, times, 1, 11)];
    assert_violation(&with(batch(stale.clone())), "older");
    assert_allowed(&with(stale.to_vec()));
    let lost = [second.clone(), absent(EU, times)];
    assert_violation(&with(batch(lost)), "nothing can have removed");
    let unknown = call(EU, times, write(2), Outcome::Unknown);
    assert_allowed(&with(batch([unknown, read(EU, times, 1, 11)])));
    // A lost line is found by later calls, too.
    let mut calls = with(batch([second]));
    calls.push(read(EU, (50, 60), 1, 11));
    assert_violation(&calls, "older");
}
