//! Checks whether the calls on one key, in all regions, are consistent with last-writer-wins.
//!
//! - In a region a key's version only rises: a read returns nothing older than what any read or
//!   write in the same region, or the session token that it carried, had observed before it began.
//! - A value that is read was written, with that version, by a write that had begun; and so was its
//!   metadata, if a touch has changed that. A touch keeps the newest value of its region, with the
//!   time of its expiry.
//! - A key is absent only where a delete or an expiry may be newer than all that was observed.
//! - An expired value is not read, within the bound on clock skew, and a deleted one doesn't
//!   return.
//! - A write in a region gets a version above all that the region had shown, and one with
//!   `If-Match` is done only if no write of its region lies between it and the version it replaced.
//! - Operations of a batch observe those before them in it.
//! - At the end a key holds the newest version that was acknowledged, or a newer one of a write of
//!   unknown outcome.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;

use super::call_index::CallIndex;
use super::region_call::{RegionCall, RunStart};
use crate::call_record::Outcome;
use crate::checker::{ABSENT, Content, Effect, Precondition, WriteId};
use crate::version::Version;
use crate::version_uniqueness::check_versions_unique;

/// Bound on the error of a node's clock, in nanoseconds.
const CLOCK_ERROR_NANOS: u64 = 250_000_000;

/// Time until a write of unknown outcome has taken effect, in nanoseconds: longer than any link
/// holds a request back and any queue keeps it.
const UNKNOWN_WRITE_NANOS: u64 = 60_000_000_000;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Final state of a key.
pub(super) type FinalState = Option<(Version, Content)>;

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
    index: CallIndex<'a>,
    run_start: RunStart,
    /// Newest version observed, by region.
    observed: BTreeMap<usize, ObservedVersion>,
}

impl<'a> LwwChecker<'a> {
    fn new(calls: &'a [RegionCall], run_start: RunStart) -> Self {
        let mut sorted: Vec<&RegionCall> = calls.iter().collect();
        sorted.sort_by_key(|call| call.record.start);
        Self {
            calls: sorted,
            index: CallIndex::new(calls),
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
            let observed = observed.max(self.observed_in_batch(call));
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

    /// Returns the newest version that operations before this one in its batch have shown.
    fn observed_in_batch(&self, call: &RegionCall) -> ObservedVersion {
        let earlier = self.index.earlier_in_batch(call).into_iter();
        let shown = earlier.filter(|earlier| {
            let outcome = earlier.record.outcome;
            matches!(outcome, Outcome::Read(_) | Outcome::Written)
        });
        let shown = shown.map(|earlier| ObservedVersion {
            version: earlier.version(),
            is_absent: earlier.record.content() == Some(ABSENT),
        });
        shown.max().unwrap_or_default()
    }

    /// Returns what the region has observed of the key after this call, if the call shows it.
    fn check_call(
        &self,
        call: &RegionCall,
        observed: ObservedVersion,
    ) -> Result<Option<ObservedVersion>, String> {
        let record = &call.record;
        let times = (record.start, record.end);
        match record.outcome {
            Outcome::Read(content) => {
                let covered_by_token = ObservedVersion {
                    version: call.seen,
                    is_absent: false,
                };
                let required = if call.is_eventual {
                    covered_by_token
                } else {
                    covered_by_token.max(observed)
                };
                let read_content = (content != ABSENT).then_some(content);
                let version = call.version();
                self.check_read(read_content, version, required, times)
                    .map(Some)
            }
            // The touch has read that there is no key.
            Outcome::NotFound => self.check_read(None, None, observed, times).map(Some),
            Outcome::Written => {
                let Some(version) = call.version() else {
                    return Ok(None);
                };
                if Some(version) <= observed.version {
                    return Err("a write got a version that isn't above what was there".into());
                }
                self.check_condition(call, version)?;
                Ok(Some(ObservedVersion {
                    version: Some(version),
                    is_absent: record.action.effect() == Effect::Delete,
                }))
            }
            Outcome::ConditionFailed | Outcome::Unknown | Outcome::NotDone => Ok(None),
        }
    }

    fn check_read(
        &self,
        read_content: Option<Content>,
        version: Option<Version>,
        required: ObservedVersion,
        (start, end): (u64, u64),
    ) -> Result<ObservedVersion, String> {
        let Some(content) = read_content else {
            if !self.may_be_absent(required, end) {
                return Err("it is absent, and nothing can have removed it".into());
            }
            return Ok(ObservedVersion {
                is_absent: true,
                ..required
            });
        };
        let version = version.ok_or("it has no version")?;
        let put = self.index.check_content(content, version, end)?;
        self.check_touch(content, version)?;
        if Some(version) < required.version {
            return Err("it is older than what was observed before".into());
        }
        match put.ttl {
            Some(ttl) => {
                // The time of the put, or a later one: that of a touch.
                let written = self.index.version(content.value).unwrap_or(version);
                let expires = written.time.saturating_add(ttl * NANOS_PER_SEC);
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

    /// Returns whether a write may be done that is not older than `seen`, and is a delete or has
    /// expired.
    fn may_remove(&self, call: &RegionCall, seen: Version, end: u64) -> bool {
        let record = &call.record;
        if !matches!(record.outcome, Outcome::Written | Outcome::Unknown) {
            return false;
        }
        let effect = record.action.effect();
        let version = match effect.write() {
            Some(write) => self.index.version(write),
            None => call.version(),
        };
        let latest = || {
            self.run_start
                .wall_time(record.end)
                .saturating_add(UNKNOWN_WRITE_NANOS)
        };
        let is_new_enough = match version {
            Some(version) => version >= seen,
            None => latest() >= seen.time,
        };
        let removes = || match effect {
            Effect::Nothing => false,
            Effect::Delete => true,
            Effect::Put(content) => self.may_have_expired(content.value, end),
            Effect::Touch(_) => {
                let mut values = self.index.values_touched_by(record.action).into_iter();
                values.any(|put| self.may_have_expired(put, end))
            }
        };
        is_new_enough && removes()
    }

    /// Returns whether the value of this put may have expired at a time of the run.
    fn may_have_expired(&self, put: WriteId, end: u64) -> bool {
        let Some(call) = self.index.write(put) else {
            return false;
        };
        let written = match self.index.version(put) {
            Some(version) => version.time,
            None => self.run_start.wall_time(call.record.start),
        };
        let by_now = self
            .run_start
            .wall_time(end)
            .saturating_add(CLOCK_ERROR_NANOS);
        let has_expired =
            |ttl: u64| written.saturating_sub(CLOCK_ERROR_NANOS) + ttl * NANOS_PER_SEC <= by_now;
        call.ttl.is_some_and(has_expired)
    }

    /// Checks that no other write of the region came between the version that was required and this
    /// one.
    fn check_condition(&self, call: &RegionCall, version: Version) -> Result<(), String> {
        let Precondition::Equals(was) = call.record.action.precondition() else {
            return Ok(());
        };
        let was = self.index.version(was.write());
        match was.and_then(|was| self.write_between(call.region, was, version, |_| true)) {
            Some(other) => Err(format!("its condition did not hold after {other}")),
            None => Ok(()),
        }
    }

    /// Checks that the touch which left a content has kept the newest value of its region. Contents
    /// that a put left pass. The value may be older than another one of the region, if it was touched
    /// in another region after that.
    fn check_touch(&self, content: Content, version: Version) -> Result<(), String> {
        let write = self.index.write(content.write());
        let touch = write.filter(|it| matches!(it.record.action.effect(), Effect::Touch(_)));
        let kept = self.index.last_version_of_value(content.value, version);
        let replaces = |effect| matches!(effect, Effect::Put(_) | Effect::Delete);
        let between = touch
            .zip(kept)
            .and_then(|(touch, kept)| self.write_between(touch.region, kept, version, replaces));
        match between {
            Some(other) => Err(format!(
                "its value was replaced before its metadata, by {other}"
            )),
            None => Ok(()),
        }
    }

    /// Returns a write of a region between two versions, with an effect of some kind.
    fn write_between(
        &self,
        region: usize,
        older: Version,
        newer: Version,
        is_wanted: impl Fn(Effect) -> bool,
    ) -> Option<&'a RegionCall> {
        let mut writes = self.calls.iter().copied().filter(|call| {
            let record = &call.record;
            call.region == region
                && record.outcome == Outcome::Written
                && is_wanted(record.action.effect())
        });
        writes.find(|call| {
            let version = call.version();
            version.is_some_and(|version| older < version && version < newer)
        })
    }

    fn check_final_state(&self, last: FinalState, now: u64) -> Result<(), String> {
        let observed = self.observed.values().max().copied().unwrap_or_default();
        let (version, content) = last.unzip();
        let checked = self.check_read(content, version, observed, (now, now));
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
