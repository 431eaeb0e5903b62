//! Calls on one key in all regions, by their writes and batches.

use std::collections::HashMap;

use super::region_call::RegionCall;
use crate::call_record::{Action, Outcome};
use crate::checker::{Content, Effect, Precondition, WriteId};
use crate::version::Version;

/// Calls on one key.
pub(super) struct CallIndex<'a> {
    /// Puts and touches that may be done.
    writes: HashMap<WriteId, &'a RegionCall>,
    /// Versions of puts and touches, as far as calls have shown them.
    versions: HashMap<WriteId, Version>,
    /// Contents that puts and touches left, as far as calls have shown them.
    contents: HashMap<WriteId, Content>,
    /// Operations of each batch.
    batches: HashMap<u64, Vec<&'a RegionCall>>,
}

impl<'a> CallIndex<'a> {
    pub(super) fn new(calls: &'a [RegionCall]) -> Self {
        let mut index = Self {
            writes: HashMap::new(),
            versions: HashMap::new(),
            contents: HashMap::new(),
            batches: HashMap::new(),
        };
        for call in calls {
            let record = &call.record;
            let may_be_done = matches!(record.outcome, Outcome::Written | Outcome::Unknown);
            if let Some(write) = record.action.effect().write().filter(|_| may_be_done) {
                index.writes.insert(write, call);
            }
            if let Some(write) = record.observed_write() {
                let (version, content) = (call.version(), record.content());
                index
                    .versions
                    .extend(version.map(|version| (write, version)));
                index
                    .contents
                    .extend(content.map(|content| (write, content)));
            }
            if let Some(position) = record.batch {
                index.batches.entry(position.batch).or_default().push(call);
            }
        }
        index
    }

    /// Returns the put or touch with this number, if it may be done.
    pub(super) fn write(&self, write: WriteId) -> Option<&'a RegionCall> {
        self.writes.get(&write).copied()
    }

    /// Returns the version of a put or touch, if a call has shown it.
    pub(super) fn version(&self, write: WriteId) -> Option<Version> {
        self.versions.get(&write).copied()
    }

    /// Returns the operations in earlier stages of a call's batch.
    pub(super) fn earlier_in_batch(&self, call: &RegionCall) -> Vec<&'a RegionCall> {
        let Some(position) = call.record.batch else {
            return vec![];
        };
        let operations = self.batches.get(&position.batch).into_iter().flatten();
        let is_earlier = |other: &&RegionCall| {
            let other = other.record.batch;
            other.is_some_and(|other| other.is_before(position))
        };
        operations.copied().filter(is_earlier).collect()
    }

    /// Returns the puts whose value a touch may have kept: one, unless no call has shown which.
    pub(super) fn values_touched_by(&self, touch: Action) -> Vec<WriteId> {
        let write = touch.effect().write();
        let shown = write.and_then(|write| self.contents.get(&write).copied());
        match shown.or(touch.written_content()) {
            Some(content) => vec![content.value],
            None => self.writes.keys().copied().collect(),
        }
    }

    /// Returns the newest version before another one with which the value of a put may have been
    /// left, by the put or by a touch in any region; `None` if that can't be told.
    pub(super) fn last_version_of_value(&self, put: WriteId, before: Version) -> Option<Version> {
        let mut newest = self.version(put)?;
        for (write, call) in &self.writes {
            let action = call.record.action;
            let is_touch = matches!(action.effect(), Effect::Touch(_));
            if !is_touch || !self.values_touched_by(action).contains(&put) {
                continue;
            }
            // A touch of unknown outcome may have any version.
            let version = self.version(*write)?;
            if version < before {
                newest = newest.max(version);
            }
        }
        Some(newest)
    }

    /// Checks that a content that was read by `end` was written, and with this version. Returns the
    /// put of its value.
    pub(super) fn check_content(
        &self,
        content: Content,
        version: Version,
        end: u64,
    ) -> Result<&'a RegionCall, &'static str> {
        let write = self.write(content.write()).ok_or("nobody wrote this")?;
        let put = self.write(content.value).ok_or("nobody wrote this")?;
        if write.record.start.max(put.record.start) > end {
            return Err("it was read before it was written");
        }
        let shown = self.version(content.write());
        if shown.is_some_and(|shown| shown != version) {
            return Err("this is not the version of that content");
        }
        let action = write.record.action;
        match (action.effect(), action.precondition()) {
            (Effect::Put(written), _) if written == content => Ok(put),
            (Effect::Touch(_), Precondition::Equals(was)) if was.value != content.value => {
                Err("its metadata belongs to another value")
            }
            (Effect::Touch(_), _) if !matches!(put.record.action.effect(), Effect::Put(_)) => {
                Err("nobody wrote its value")
            }
            (Effect::Touch(_), _) => match self.version(content.value) {
                Some(put_version) if put_version >= version => {
                    Err("its value is newer than its metadata")
                }
                Some(_) | None => Ok(put),
            },
            (Effect::Put(_) | Effect::Nothing | Effect::Delete, _) => {
                Err("its metadata isn't that of its value")
            }
        }
    }
}
