//! A call on a key, with all that matters where several regions have the key.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::faults::call::Record;
use crate::faults::ledger::KeyName;
use crate::faults::version::Version;

/// A call on a key in one region.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    /// The region that was called.
    pub region: usize,
    /// The call.
    pub record: Record,
    /// The time to live of what it wrote, in seconds.
    pub ttl: Option<u64>,
    /// The newest version of the key that the session token covered which it brought.
    pub seen: Option<Version>,
    /// Whether it was content with what the node's own replica had.
    pub eventual: bool,
}

impl Visit {
    /// A call without anything special.
    pub fn plain(region: usize, record: Record) -> Self {
        Self {
            region,
            record,
            ttl: None,
            seen: None,
            eventual: false,
        }
    }

    /// The version of what it found or wrote.
    pub fn version(&self) -> Option<Version> {
        Version::of_etag(self.record.etag.as_deref()?)
    }
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} {}", self.region, self.record)?;
        if let Some(ttl) = self.ttl {
            write!(f, "  ttl {ttl} s")?;
        }
        if let Some(seen) = self.seen {
            write!(f, "  with a token of {seen}")?;
        }
        f.write_str(if self.eventual { "  eventual" } else { "" })
    }
}

/// Visits by key, until they are judged.
#[derive(Debug, Default)]
pub(super) struct Visits(Mutex<HashMap<KeyName, Vec<Visit>>>);

impl Visits {
    pub fn add(&self, key: KeyName, visit: Visit) {
        let mut visits = self.0.lock().expect("no client panics here");
        visits.entry(key).or_default().push(visit);
    }

    /// Takes out those of a key.
    pub fn take(&self, key: KeyName) -> Vec<Visit> {
        let mut visits = self.0.lock().expect("no client panics here");
        visits.remove(&key).unwrap_or_default()
    }

    /// Takes out all.
    pub fn take_all(&self) -> HashMap<KeyName, Vec<Visit>> {
        std::mem::take(&mut self.0.lock().expect("no client panics here"))
    }
}

/// The run's time as wall clocks have it, which is what versions are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin(pub u64);

impl Origin {
    /// Of a run that begins now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.as_nanos());
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When a time of the run was.
    pub fn at(self, since_start: u64) -> u64 {
        self.0.saturating_add(since_start)
    }
}
