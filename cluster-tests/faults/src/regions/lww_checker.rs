//! Checks whether the calls on one key, in all regions, are consistent with last-writer-wins.
//!
//! - In a region a key's version only rises: a read returns nothing older than what any read or
//!   write in the same region, or the session token that it carried, had observed before it began.
//! - A value that is read was written, with that version, by a write that had begun.
//! - A key is absent only where a delete or an expiry may be newer than all that was observed.
//! - An expired value is not read, within the bound on clock skew, and a deleted one doesn't
//!   return.
//! - A write in a region gets a version above all that the region had shown, and one with
//!   `If-Match` is done only if no write of its region lies between it and the version it replaced.
//! - At the end a key holds the newest version that was acknowledged, or a newer one of a write of
//!   unknown outcome.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt::Write as _;

use super::region_call::{RegionCall, RunStart};
use crate::call_record::{Action, Outcome};
use crate::checker::{ABSENT, Value};
use crate::history_checker::check_versions_unique;
use crate::version::Version;

/// Bound on the error of a node's clock, in nanoseconds.
const CLOCK_ERROR_NANOS: u64 = 250_000_000;

/// Time until a write of unknown outcome has taken effect, in nanoseconds: longer than any link
/// holds a request back and any queue keeps it.
const UNKNOWN_WRITE_NANOS: u64 = 60_000_000_000;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Final state of a key.
pub(super) type FinalState = Option<(Version, Value)>;

/// Newest version of a key that was observed somewhere, and whether it was absent after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ObservedVersion {
    version: Option<Version>,
    is_absent: bool,
}

/// Checks one key. `last` is its state in all regions at the end, with the time of that read;
/// `None` if the key isn't part of the final comparison.
pub(super) fn check_key(
    calls: &[RegionCall],
    origin: RunStart,
    last: Option<(FinalState, u64)>,
) -> Result<(), String> {
    check_versions_unique(calls.iter().map(|call| &call.record))?;
    let mut checker = LwwChecker::new(calls, origin);
    checker.check_calls()?;
    match last {
        Some((last, now)) => checker.check_final_state(last, now),
        None => Ok(()),
    }
}

/// Formats all calls on a key, in order.
pub(super) fn format_calls(calls: &[RegionCall]) -> String {
    let mut calls: Vec<&RegionCall> = calls.iter().collect();
    calls.sort_by_key(|call| call.record.start);
    let mut text = String::new();
    for call in calls {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{call}");
    }
    text
}

struct LwwChecker<'a> {
    /// Calls, ordered by start.
    calls: Vec<&'a RegionCall>,
    /// The write of each value that may be done.
    writes: HashMap<Value, &'a RegionCall>,
    versions: HashMap<Value, Version>,
    run_start: RunStart,
    /// Newest version observed, by region.
    observed: BTreeMap<usize, ObservedVersion>,
}

impl<'a> LwwChecker<'a> {
    fn new(calls: &'a [RegionCall], run_start: RunStart) -> Self {
        let mut sorted: Vec<&RegionCall> = calls.iter().collect();
        sorted.sort_by_key(|call| call.record.start);
        let written = |call: &&'a RegionCall| {
            let value = call
                .record
                .action
                .written_value()
                .filter(|it| *it != ABSENT)?;
            let may_be_done = matches!(call.record.outcome, Outcome::Written | Outcome::Unknown);
            may_be_done.then_some((value, *call))
        };
        let writes = sorted.iter().filter_map(written).collect();
        let version = |call: &RegionCall| Some((call.record.value()?, call.version()?));
        let versions = calls.iter().filter_map(version);
        Self {
            writes,
            versions: versions.filter(|(value, _)| *value != ABSENT).collect(),
            calls: sorted,
            run_start,
            observed: BTreeMap::new(),
        }
    }

    /// Checks each call against what its region had shown before it began.
    fn check_calls(&mut self) -> Result<(), String> {
        // Versions that ended calls add to what a region has shown, ordered by end.
        let mut ended: BinaryHeap<Reverse<(u64, usize, ObservedVersion)>> = BinaryHeap::new();
        for call in self.calls.clone() {
            let is_past =
                |end: &Reverse<(u64, usize, ObservedVersion)>| end.0.0 < call.record.start;
            while ended.peek().is_some_and(is_past) {
                if let Some(Reverse((_, region, ended_observation))) = ended.pop() {
                    let known = self.observed.entry(region).or_default();
                    *known = ended_observation.max(*known);
                }
            }
            let observed = self.observed.get(&call.region).copied().unwrap_or_default();
            let now_observed = self.check_call(call, observed).map_err(|reason| {
                format!(
                    "{reason}: {call}\nthe region had shown {}",
                    describe(observed)
                )
            })?;
            if let Some(now_observed) = now_observed.filter(|_| !call.is_eventual) {
                ended.push(Reverse((call.record.end, call.region, now_observed)));
            }
        }
        for Reverse((_, region, ended_observation)) in ended {
            let known = self.observed.entry(region).or_default();
            *known = ended_observation.max(*known);
        }
        Ok(())
    }

    /// Returns what the region has observed of the key after this call, if the call shows it.
    fn check_call(
        &self,
        call: &RegionCall,
        observed: ObservedVersion,
    ) -> Result<Option<ObservedVersion>, String> {
        let record = &call.record;
        match record.outcome {
            Outcome::Read(value) => {
                let covered_by_token = ObservedVersion {
                    version: call.seen,
                    is_absent: false,
                };
                let required = if call.is_eventual {
                    covered_by_token
                } else {
                    covered_by_token.max(observed)
                };
                let read_value = (value != ABSENT).then_some(value);
                let version = call.version();
                self.check_read(read_value, version, required, (record.start, record.end))
                    .map(Some)
            }
            Outcome::Written => {
                let Some(version) = call.version() else {
                    return Ok(None);
                };
                if Some(version) <= observed.version {
                    return Err("a write got a version that isn't above what was there".into());
                }
                self.check_condition(call, version)?;
                let is_absent = record.action.written_value() == Some(ABSENT);
                Ok(Some(ObservedVersion {
                    version: Some(version),
                    is_absent,
                }))
            }
            Outcome::ConditionFailed | Outcome::Unknown | Outcome::NotDone => Ok(None),
        }
    }

    fn check_read(
        &self,
        read_value: Option<Value>,
        version: Option<Version>,
        required: ObservedVersion,
        (start, end): (u64, u64),
    ) -> Result<ObservedVersion, String> {
        let Some(value) = read_value else {
            if !self.may_be_absent(required, end) {
                return Err("it is absent, and nothing can have removed it".into());
            }
            return Ok(ObservedVersion {
                is_absent: true,
                ..required
            });
        };
        let version = version.ok_or("it has no version")?;
        let write = self.writes.get(&value).ok_or("nobody wrote this")?;
        if write.record.start > end {
            return Err("it was read before it was written".into());
        }
        if self.versions.get(&value).is_some_and(|it| *it != version) {
            return Err("this is not the version of that value".into());
        }
        if Some(version) < required.version {
            return Err("it is older than what was observed before".into());
        }
        match write.ttl {
            Some(ttl) => {
                let expires = version.time.saturating_add(ttl * NANOS_PER_SEC);
                if self.run_start.wall_time(start) > expires.saturating_add(CLOCK_ERROR_NANOS) {
                    return Err("it had expired".into());
                }
            }
            None if required.is_absent && Some(version) == required.version => {
                return Err("it was absent before, and has returned".into());
            }
            None => {}
        }
        Ok(ObservedVersion {
            version: Some(version),
            is_absent: false,
        })
    }

    /// Returns whether a delete or an expiry may be newer than all that was observed.
    fn may_be_absent(&self, observed: ObservedVersion, end: u64) -> bool {
        let Some(seen) = observed.version.filter(|_| !observed.is_absent) else {
            return true;
        };
        let mut started = self.calls.iter().filter(|it| it.record.start <= end);
        started.any(|call| self.may_remove(call, seen, end))
    }

    fn may_remove(&self, call: &RegionCall, seen: Version, end: u64) -> bool {
        let record = &call.record;
        let may_be_done = matches!(record.outcome, Outcome::Written | Outcome::Unknown);
        let Some(value) = record.action.written_value().filter(|_| may_be_done) else {
            return false;
        };
        let version = if value == ABSENT {
            call.version()
        } else {
            self.versions.get(&value).copied()
        };
        let (is_newer, time) = match version {
            Some(version) => (version >= seen, version.time),
            None => {
                let latest = self
                    .run_start
                    .wall_time(record.end)
                    .saturating_add(UNKNOWN_WRITE_NANOS);
                (latest >= seen.time, self.run_start.wall_time(record.start))
            }
        };
        let by_now = self
            .run_start
            .wall_time(end)
            .saturating_add(CLOCK_ERROR_NANOS);
        let has_expired =
            |ttl: u64| time.saturating_sub(CLOCK_ERROR_NANOS) + ttl * NANOS_PER_SEC <= by_now;
        is_newer && (value == ABSENT || call.ttl.is_some_and(has_expired))
    }

    /// Checks that no other write of the region came between the version that was required and this
    /// one.
    fn check_condition(&self, call: &RegionCall, version: Version) -> Result<(), String> {
        let (Action::PutIfMatch { was, .. } | Action::DeleteIfMatch(was)) = call.record.action
        else {
            return Ok(());
        };
        let Some(was) = self.versions.get(&was).copied() else {
            return Ok(());
        };
        let between = self.calls.iter().find(|other| {
            let write = other.region == call.region && other.record.outcome == Outcome::Written;
            let other = other.version().filter(|_| write);
            other.is_some_and(|other| other > was && other < version)
        });
        match between {
            Some(other) => Err(format!("its condition did not hold after {other}")),
            None => Ok(()),
        }
    }

    fn check_final_state(&self, last: FinalState, now: u64) -> Result<(), String> {
        let observed = self.observed.values().max().copied().unwrap_or_default();
        let (version, value) = last.unzip();
        let checked = self.check_read(value, version, observed, (now, now));
        checked.map(|_| ()).map_err(|reason| {
            let held = version.map_or_else(|| "nothing".into(), |version| version.to_string());
            format!(
                "at the end it holds {held}: {reason}; the newest that was observed is {}",
                describe(observed)
            )
        })
    }
}

fn describe(observed: ObservedVersion) -> String {
    match observed.version {
        None => "nothing".into(),
        Some(version) if observed.is_absent => format!("its absence after {version}"),
        Some(version) => version.to_string(),
    }
}
