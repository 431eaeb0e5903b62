//! A call on a key in one region, with all that matters for keys of several regions.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::call_record::CallRecord;
use crate::history::KeyName;
use crate::version::Version;

/// A call on a key in one region.
#[derive(Clone, Debug)]
pub(super) struct RegionCall {
    /// Region that was called.
    pub region: usize,
    /// Record of the call.
    pub record: CallRecord,
    /// Time to live of the value that it wrote, in seconds.
    pub ttl: Option<u64>,
    /// Newest version of the key covered by the session token that the call carried.
    pub seen: Option<Version>,
    /// True if the node's own replica was allowed to answer.
    pub is_eventual: bool,
}

impl RegionCall {
    /// Creates a call without a session token or a time to live.
    pub(super) fn without_session(region: usize, record: CallRecord) -> Self {
        Self {
            region,
            record,
            ttl: None,
            seen: None,
            is_eventual: false,
        }
    }

    /// Returns the version that it read or wrote.
    pub(super) fn version(&self) -> Option<Version> {
        Version::from_etag(self.record.etag.as_deref()?)
    }
}

impl fmt::Display for RegionCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} {}", self.region, self.record)?;
        if let Some(ttl) = self.ttl {
            write!(f, "  ttl {ttl} s")?;
        }
        if let Some(seen) = self.seen {
            write!(f, "  with a token of {seen}")?;
        }
        f.write_str(if self.is_eventual { "  eventual" } else { "" })
    }
}

/// Calls by key, until they are checked.
#[derive(Debug, Default)]
pub(super) struct RegionCalls(Mutex<HashMap<KeyName, Vec<RegionCall>>>);

impl RegionCalls {
    pub(super) fn add(&self, key: KeyName, call: RegionCall) {
        let mut calls = self.0.lock().expect("no client panics here");
        calls.entry(key).or_default().push(call);
    }

    /// Takes the calls on a key.
    pub(super) fn take(&self, key: KeyName) -> Vec<RegionCall> {
        let mut calls = self.0.lock().expect("no client panics here");
        calls.remove(&key).unwrap_or_default()
    }

    /// Takes all calls.
    pub(super) fn take_all(&self) -> HashMap<KeyName, Vec<RegionCall>> {
        std::mem::take(&mut self.0.lock().expect("no client panics here"))
    }
}

/// Wall clock time at a run's start, which relates the run's times to versions.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunStart(pub u64);

impl RunStart {
    /// Creates the origin of a run that begins now.
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.as_nanos());
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the wall clock time at a time of the run, in nanoseconds.
    pub(super) fn wall_time(self, since_start: u64) -> u64 {
        self.0.saturating_add(since_start)
    }
}
