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

use super::visit::{Origin, Visit};
use crate::checker::{ABSENT, Value};
use crate::faults::call::{Action, Outcome};
use crate::faults::settle::one_version_for_each_value;
use crate::faults::version::Version;

/// Bound on the error of a node's clock, in nanoseconds.
const CLOCK_BOUND: u64 = 250_000_000;

/// Time until a write of unknown outcome has taken effect, in nanoseconds: longer than any link
/// holds a request back and any queue keeps it.
const HAPPENS_WITHIN: u64 = 60_000_000_000;

const SECOND: u64 = 1_000_000_000;

/// Final state of a key.
pub(super) type Last = Option<(Version, Value)>;

/// Newest version of a key that was observed somewhere, and whether it was absent after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    version: Option<Version>,
    gone: bool,
}

/// Checks one key. `last` is its state in all regions at the end, with the time of that read;
/// `None` if the key isn't part of the final comparison.
pub(super) fn judge(
    calls: &[Visit],
    origin: Origin,
    last: Option<(Last, u64)>,
) -> Result<(), String> {
    one_version_for_each_value(calls.iter().map(|call| &call.record))?;
    let mut checker = Judge::new(calls, origin);
    checker.sweep()?;
    match last {
        Some((last, now)) => checker.check_last(last, now),
        None => Ok(()),
    }
}

/// Formats all calls on a key, in order.
pub(super) fn history(calls: &[Visit]) -> String {
    let mut calls: Vec<&Visit> = calls.iter().collect();
    calls.sort_by_key(|call| call.record.start);
    let mut text = String::new();
    for call in calls {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{call}");
    }
    text
}

struct Judge<'a> {
    /// Calls, ordered by start.
    visits: Vec<&'a Visit>,
    /// The write of each value that may be done.
    writes: HashMap<Value, &'a Visit>,
    versions: HashMap<Value, Version>,
    origin: Origin,
    /// Newest version observed, by region.
    floors: BTreeMap<usize, Floor>,
}

impl<'a> Judge<'a> {
    fn new(calls: &'a [Visit], origin: Origin) -> Self {
        let mut sorted: Vec<&Visit> = calls.iter().collect();
        sorted.sort_by_key(|call| call.record.start);
        let written = |call: &&'a Visit| {
            let value = call.record.action.writes().filter(|it| *it != ABSENT)?;
            let may_be_done = matches!(call.record.outcome, Outcome::Done | Outcome::Unknown);
            may_be_done.then_some((value, *call))
        };
        let writes = sorted.iter().filter_map(written).collect();
        let version = |call: &Visit| Some((call.record.value()?, call.version()?));
        let versions = calls.iter().filter_map(version);
        Self {
            writes,
            versions: versions.filter(|(value, _)| *value != ABSENT).collect(),
            visits: sorted,
            origin,
            floors: BTreeMap::new(),
        }
    }

    /// Checks each call against what its region had shown before it began.
    fn sweep(&mut self) -> Result<(), String> {
        // Versions that ended calls add to what a region has shown, ordered by end.
        let mut ended: BinaryHeap<Reverse<(u64, usize, Floor)>> = BinaryHeap::new();
        for call in self.visits.clone() {
            let is_past = |end: &Reverse<(u64, usize, Floor)>| end.0.0 < call.record.start;
            while ended.peek().is_some_and(is_past) {
                if let Some(Reverse((_, region, ended_observation))) = ended.pop() {
                    let known = self.floors.entry(region).or_default();
                    *known = ended_observation.max(*known);
                }
            }
            let observed = self.floors.get(&call.region).copied().unwrap_or_default();
            let now_observed = self
                .check(call, observed)
                .map_err(|reason| format!("{reason}: {call}\nthe region had shown {}", told(observed)))?;
            if let Some(now_observed) = now_observed.filter(|_| !call.eventual) {
                ended.push(Reverse((call.record.end, call.region, now_observed)));
            }
        }
        for Reverse((_, region, ended_observation)) in ended {
            let known = self.floors.entry(region).or_default();
            *known = ended_observation.max(*known);
        }
        Ok(())
    }

    /// Returns what the region has observed of the key after this call, if the call shows it.
    fn check(&self, call: &Visit, observed: Floor) -> Result<Option<Floor>, String> {
        let record = &call.record;
        match record.outcome {
            Outcome::Found(value) => {
                let covered_by_token = Floor {
                    version: call.seen,
                    gone: false,
                };
                let required = if call.eventual {
                    covered_by_token
                } else {
                    covered_by_token.max(observed)
                };
                let read_value = (value != ABSENT).then_some(value);
                let version = call.version();
                self.check_found(read_value, version, required, (record.start, record.end))
                    .map(Some)
            }
            Outcome::Done => {
                let Some(version) = call.version() else {
                    return Ok(None);
                };
                if Some(version) <= observed.version {
                    return Err("a write got a version that isn't above what was there".into());
                }
                self.check_condition(call, version)?;
                let is_absent = record.action.writes() == Some(ABSENT);
                Ok(Some(Floor {
                    version: Some(version),
                    gone: is_absent,
                }))
            }
            Outcome::Failed | Outcome::Unknown | Outcome::Nothing => Ok(None),
        }
    }

    fn check_found(
        &self,
        read_value: Option<Value>,
        version: Option<Version>,
        required: Floor,
        (start, end): (u64, u64),
    ) -> Result<Floor, String> {
        let Some(value) = read_value else {
            if !self.may_be_gone(required, end) {
                return Err("it is absent, and nothing can have removed it".into());
            }
            return Ok(Floor {
                gone: true,
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
                let expires = version.time.saturating_add(ttl * SECOND);
                if self.origin.at(start) > expires.saturating_add(CLOCK_BOUND) {
                    return Err("it had expired".into());
                }
            }
            None if required.gone && Some(version) == required.version => {
                return Err("it was absent before, and has returned".into());
            }
            None => {}
        }
        Ok(Floor {
            version: Some(version),
            gone: false,
        })
    }

    /// Returns whether a delete or an expiry may be newer than all that was observed.
    fn may_be_gone(&self, observed: Floor, end: u64) -> bool {
        let Some(seen) = observed.version.filter(|_| !observed.gone) else {
            return true;
        };
        let mut started = self.visits.iter().filter(|it| it.record.start <= end);
        started.any(|call| self.may_remove(call, seen, end))
    }

    fn may_remove(&self, call: &Visit, seen: Version, end: u64) -> bool {
        let record = &call.record;
        let may_be_done = matches!(record.outcome, Outcome::Done | Outcome::Unknown);
        let Some(value) = record.action.writes().filter(|_| may_be_done) else {
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
                let latest = self.origin.at(record.end).saturating_add(HAPPENS_WITHIN);
                (latest >= seen.time, self.origin.at(record.start))
            }
        };
        let by_now = self.origin.at(end).saturating_add(CLOCK_BOUND);
        let has_expired = |ttl: u64| time.saturating_sub(CLOCK_BOUND) + ttl * SECOND <= by_now;
        is_newer && (value == ABSENT || call.ttl.is_some_and(has_expired))
    }

    /// Checks that no other write of the region came between the version that was required and this
    /// one.
    fn check_condition(&self, call: &Visit, version: Version) -> Result<(), String> {
        let (Action::Swap { was, .. } | Action::DeleteThat(was)) = call.record.action else {
            return Ok(());
        };
        let Some(was) = self.versions.get(&was).copied() else {
            return Ok(());
        };
        let between = self.visits.iter().find(|other| {
            let write = other.region == call.region && other.record.outcome == Outcome::Done;
            let other = other.version().filter(|_| write);
            other.is_some_and(|other| other > was && other < version)
        });
        match between {
            Some(other) => Err(format!("its condition did not hold after {other}")),
            None => Ok(()),
        }
    }

    fn check_last(&self, last: Last, now: u64) -> Result<(), String> {
        let observed = self.floors.values().max().copied().unwrap_or_default();
        let (version, value) = last.unzip();
        let checked = self.check_found(value, version, observed, (now, now));
        checked.map(|_| ()).map_err(|reason| {
            let held = version.map_or_else(|| "nothing".into(), |version| version.to_string());
            format!(
                "at the end it holds {held}: {reason}; the newest that was observed is {}",
                told(observed)
            )
        })
    }
}

fn told(observed: Floor) -> String {
    match observed.version {
        None => "nothing".into(),
        Some(version) if observed.gone => format!("its absence after {version}"),
        Some(version) => version.to_string(),
    }
}
