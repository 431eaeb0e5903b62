//! What a client knows of a bucket that it watches, by the rules of `docs/api.md`:
//!
//! - A `put` is taken over if it is newer than what the client has, `delete` and `expire` remove
//!   what isn't newer. So it doesn't matter if an event comes again.
//! - With `initial=true`, what the client has is discarded at `reset`, and when it connects without
//!   a position: all keys follow.
//! - Without it, the client lists the bucket at `reset`, and at `ready` if it had no position.
//!
//! Beside that the model checks what is promised: on one connection, the events of a key come in
//! the order of their versions.

use std::collections::HashMap;

use serde_json::Value;

use super::bucket_copy::BucketCopy;
use super::key_event::KeyEvent;
use super::key_version::KeyVersion;
use super::parser::ServerSentEvent;

/// Duty of the client after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelStep {
    /// Go on.
    Continue,
    /// List the bucket now, and call [`WatchModel::load`].
    List,
}

/// A client's copy of the watched keys of a bucket.
#[derive(Clone, Debug)]
pub struct WatchModel {
    is_initial: bool,
    has_values: bool,
    copy: BucketCopy,
    /// Last version that was told of each key on this connection, since the last `reset`.
    told: HashMap<String, KeyVersion>,
    needs_list: bool,
    is_ready: bool,
}

impl WatchModel {
    /// Creates a client that has this copy, whose request has `initial=true` and `values=true` as
    /// said.
    pub fn new(is_initial: bool, has_values: bool, copy: BucketCopy) -> Self {
        Self {
            is_initial,
            has_values,
            copy,
            told: HashMap::new(),
            needs_list: false,
            is_ready: false,
        }
    }

    /// Returns the copy.
    pub fn copy(&self) -> &BucketCopy {
        &self.copy
    }

    /// Returns whether `ready` came on this connection, and no `reset` after it.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Begins a connection, with a position to go on from or without one.
    pub fn connect(&mut self, has_position: bool) {
        self.told.clear();
        self.is_ready = false;
        if !has_position {
            self.copy.clear();
            self.needs_list = !self.is_initial;
        }
    }

    /// Takes over a list of the bucket.
    pub fn load(&mut self, listed: BucketCopy) {
        self.copy = listed;
        self.needs_list = false;
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Returns why no server may send it.
    pub fn apply(&mut self, event: &ServerSentEvent) -> Result<ModelStep, String> {
        match KeyEvent::decode(event)? {
            KeyEvent::Ready { region: _ } => {
                self.is_ready = true;
                if self.needs_list {
                    return Ok(ModelStep::List);
                }
            }
            KeyEvent::Reset { reason: _ } => {
                self.told.clear();
                self.is_ready = false;
                if !self.is_initial {
                    return Ok(ModelStep::List);
                }
                self.copy.clear();
            }
            KeyEvent::Put {
                name,
                version,
                fields,
            } => {
                self.check_put(&name, version, &fields)?;
                if self.version(&name).is_none_or(|known| known < version) {
                    self.copy.insert(name, fields);
                }
            }
            KeyEvent::Removed { name, version, .. } => {
                self.check_order(&name, version, |told| told <= version)?;
                if self.version(&name).is_some_and(|known| known <= version) {
                    self.copy.remove(&name);
                }
            }
        }
        Ok(ModelStep::Continue)
    }

    fn version(&self, name: &str) -> Option<KeyVersion> {
        self.copy.get(name).and_then(KeyVersion::of)
    }

    fn check_put(&mut self, name: &str, version: KeyVersion, fields: &Value) -> Result<(), String> {
        let has_value = ["value", "value_base64"].map(|field| fields[field].is_string());
        if has_value.contains(&true) != self.has_values {
            return Err(format!("a put with a value, or without one: {fields}"));
        }
        self.check_order(name, version, |told| told < version)
    }

    /// Checks that a version may follow the last one of its key.
    fn check_order(
        &mut self,
        name: &str,
        version: KeyVersion,
        may_follow: impl FnOnce(KeyVersion) -> bool,
    ) -> Result<(), String> {
        if self.needs_list {
            return Err(format!("{name} came before ready, and without a position"));
        }
        match self.told.insert(name.to_owned(), version) {
            Some(told) if !may_follow(told) => Err(format!(
                "versions of {name} out of order: {version:?} after {told:?}"
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
