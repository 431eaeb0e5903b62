//! Is what clients saw of one key, in all regions, what last-writer-wins allows?
//!
//! - In a region a key's version only rises: a read sees nothing older than what any read or write
//!   in the same region, or the session token that it brought, had seen before it began.
//! - A value that is read was written, with that version, by a write that had begun.
//! - A key is absent only where a delete or an expiry may be newer than all that was seen.
//! - What has expired is not read, within the bound on clocks, and what was deleted doesn't return.
//! - A write in a region gets a version above all that the region had shown, and one with
//!   `If-Match` happens only if no write of its region lies between it and what it replaced.
//! - At the end a key holds the newest version that was acknowledged, or a newer one of a write of
//!   unknown fate.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt::Write as _;

use super::visit::{Origin, Visit};
use crate::checker::{ABSENT, Value};
use crate::faults::call::{Action, Outcome};
use crate::faults::settle::one_version_for_each_value;
use crate::faults::version::Version;

/// How far a node's clock may be off, in nanoseconds.
const CLOCK_BOUND: u64 = 250_000_000;

/// How long a write of unknown fate may take until it happens, in nanoseconds: longer than any link
/// holds a request back and any queue keeps it.
const HAPPENS_WITHIN: u64 = 60_000_000_000;

const SECOND: u64 = 1_000_000_000;

/// What a key holds at the end.
pub(super) type Last = Option<(Version, Value)>;

/// How far a key has come, somewhere: to this version, which may be gone by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    version: Option<Version>,
    gone: bool,
}

/// Judges one key; `last` is what all regions hold of it at the end, at time `now`, if it has come
/// to that.
pub(super) fn judge(
    visits: &[Visit],
    origin: Origin,
    last: Option<(Last, u64)>,
) -> Result<(), String> {
    one_version_for_each_value(visits.iter().map(|visit| &visit.record))?;
    let mut judge = Judge::new(visits, origin);
    judge.sweep()?;
    match last {
        Some((last, now)) => judge.check_last(last, now),
        None => Ok(()),
    }
}

/// All that was done with a key, as a text.
pub(super) fn history(visits: &[Visit]) -> String {
    let mut visits: Vec<&Visit> = visits.iter().collect();
    visits.sort_by_key(|visit| visit.record.start);
    let mut text = String::new();
    for visit in visits {
        // Writing to a text can't fail.
        let _ = writeln!(text, "{visit}");
    }
    text
}

struct Judge<'a> {
    /// By their start.
    visits: Vec<&'a Visit>,
    /// What may have written each value.
    writes: HashMap<Value, &'a Visit>,
    versions: HashMap<Value, Version>,
    origin: Origin,
    /// By region.
    floors: BTreeMap<usize, Floor>,
}

impl<'a> Judge<'a> {
    fn new(visits: &'a [Visit], origin: Origin) -> Self {
        let mut sorted: Vec<&Visit> = visits.iter().collect();
        sorted.sort_by_key(|visit| visit.record.start);
        let written = |visit: &&'a Visit| {
            let value = visit.record.action.writes().filter(|it| *it != ABSENT)?;
            let happened = matches!(visit.record.outcome, Outcome::Done | Outcome::Unknown);
            happened.then_some((value, *visit))
        };
        let writes = sorted.iter().filter_map(written).collect();
        let version = |visit: &Visit| Some((visit.record.value()?, visit.version()?));
        let versions = visits.iter().filter_map(version);
        Self {
            writes,
            versions: versions.filter(|(value, _)| *value != ABSENT).collect(),
            visits: sorted,
            origin,
            floors: BTreeMap::new(),
        }
    }

    /// Looks at each visit with what its region had shown when it began.
    fn sweep(&mut self) -> Result<(), String> {
        // What the ends of visits add to floors, the earliest end first.
        let mut ended: BinaryHeap<Reverse<(u64, usize, Floor)>> = BinaryHeap::new();
        for visit in self.visits.clone() {
            let is_past = |end: &Reverse<(u64, usize, Floor)>| end.0.0 < visit.record.start;
            while ended.peek().is_some_and(is_past) {
                if let Some(Reverse((_, region, floor))) = ended.pop() {
                    let known = self.floors.entry(region).or_default();
                    *known = floor.max(*known);
                }
            }
            let shown = self.floors.get(&visit.region).copied().unwrap_or_default();
            let reached = self
                .check(visit, shown)
                .map_err(|why| format!("{why}: {visit}\nthe region had shown {}", told(shown)))?;
            if let Some(reached) = reached.filter(|_| !visit.eventual) {
                ended.push(Reverse((visit.record.end, visit.region, reached)));
            }
        }
        for Reverse((_, region, floor)) in ended {
            let known = self.floors.entry(region).or_default();
            *known = floor.max(*known);
        }
        Ok(())
    }

    /// How far the key has come with this visit, if it tells.
    fn check(&self, visit: &Visit, shown: Floor) -> Result<Option<Floor>, String> {
        let record = &visit.record;
        match record.outcome {
            Outcome::Found(value) => {
                let token = Floor {
                    version: visit.seen,
                    gone: false,
                };
                let floor = if visit.eventual {
                    token
                } else {
                    token.max(shown)
                };
                let found = (value != ABSENT).then_some(value);
                let version = visit.version();
                self.check_found(found, version, floor, (record.start, record.end))
                    .map(Some)
            }
            Outcome::Done => {
                let Some(version) = visit.version() else {
                    return Ok(None);
                };
                if Some(version) <= shown.version {
                    return Err("a write got a version that isn't above what was there".into());
                }
                self.check_condition(visit, version)?;
                let gone = record.action.writes() == Some(ABSENT);
                Ok(Some(Floor {
                    version: Some(version),
                    gone,
                }))
            }
            Outcome::Failed | Outcome::Unknown | Outcome::Nothing => Ok(None),
        }
    }

    fn check_found(
        &self,
        found: Option<Value>,
        version: Option<Version>,
        floor: Floor,
        (start, end): (u64, u64),
    ) -> Result<Floor, String> {
        let Some(value) = found else {
            if !self.may_be_gone(floor, end) {
                return Err("it is absent, and nothing can have removed it".into());
            }
            return Ok(Floor {
                gone: true,
                ..floor
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
        if Some(version) < floor.version {
            return Err("it is older than what was seen before".into());
        }
        match write.ttl {
            Some(ttl) => {
                let expires = version.time.saturating_add(ttl * SECOND);
                if self.origin.at(start) > expires.saturating_add(CLOCK_BOUND) {
                    return Err("it had expired".into());
                }
            }
            None if floor.gone && Some(version) == floor.version => {
                return Err("it was gone before, and has returned".into());
            }
            None => {}
        }
        Ok(Floor {
            version: Some(version),
            gone: false,
        })
    }

    /// Whether a delete or an expiry may be newer than all that was seen.
    fn may_be_gone(&self, floor: Floor, end: u64) -> bool {
        let Some(seen) = floor.version.filter(|_| !floor.gone) else {
            return true;
        };
        let mut begun = self.visits.iter().filter(|it| it.record.start <= end);
        begun.any(|visit| self.may_remove(visit, seen, end))
    }

    fn may_remove(&self, visit: &Visit, seen: Version, end: u64) -> bool {
        let record = &visit.record;
        let happened = matches!(record.outcome, Outcome::Done | Outcome::Unknown);
        let Some(value) = record.action.writes().filter(|_| happened) else {
            return false;
        };
        let version = if value == ABSENT {
            visit.version()
        } else {
            self.versions.get(&value).copied()
        };
        let (newer, time) = match version {
            Some(version) => (version >= seen, version.time),
            None => {
                let latest = self.origin.at(record.end).saturating_add(HAPPENS_WITHIN);
                (latest >= seen.time, self.origin.at(record.start))
            }
        };
        let by_now = self.origin.at(end).saturating_add(CLOCK_BOUND);
        let expired = |ttl: u64| time.saturating_sub(CLOCK_BOUND) + ttl * SECOND <= by_now;
        newer && (value == ABSENT || visit.ttl.is_some_and(expired))
    }

    /// What replaced a version saw no other one of its own region after that.
    fn check_condition(&self, visit: &Visit, version: Version) -> Result<(), String> {
        let (Action::Swap { was, .. } | Action::DeleteThat(was)) = visit.record.action else {
            return Ok(());
        };
        let Some(was) = self.versions.get(&was).copied() else {
            return Ok(());
        };
        let between = self.visits.iter().find(|other| {
            let write = other.region == visit.region && other.record.outcome == Outcome::Done;
            let other = other.version().filter(|_| write);
            other.is_some_and(|other| other > was && other < version)
        });
        match between {
            Some(other) => Err(format!("its condition did not hold after {other}")),
            None => Ok(()),
        }
    }

    fn check_last(&self, last: Last, now: u64) -> Result<(), String> {
        let floor = self.floors.values().max().copied().unwrap_or_default();
        let (version, value) = last.unzip();
        let checked = self.check_found(value, version, floor, (now, now));
        checked.map(|_| ()).map_err(|why| {
            let held = version.map_or_else(|| "nothing".into(), |version| version.to_string());
            format!(
                "at the end it holds {held}: {why}; the newest that was seen is {}",
                told(floor)
            )
        })
    }
}

fn told(floor: Floor) -> String {
    match floor.version {
        None => "nothing".into(),
        Some(version) if floor.gone => format!("that {version} is gone"),
        Some(version) => version.to_string(),
    }
}
