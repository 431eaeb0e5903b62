//! What the task and the owner of a [`WatchClient`](super::WatchClient) share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::model::WatchModel;
use super::options::{WatchCounts, WatchOptions};
use crate::response::HttpResponse;

/// Knowledge of one client.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) model: WatchModel,
    pub(super) counts: WatchCounts,
    /// Last event ID; empty: there is none.
    pub(super) last_event_id: String,
    /// Response after which an `EventSource` gives up.
    pub(super) refusal: Option<HttpResponse>,
    /// Violation by the server.
    pub(super) failure: Option<String>,
}

#[derive(Debug)]
pub(super) struct SharedClient {
    pub(super) options: WatchOptions,
    state: Mutex<ClientState>,
    pub(super) reconnect: Notify,
}

impl SharedClient {
    pub(super) fn new(options: WatchOptions) -> Self {
        let copy = options.since.as_ref().map(|(_, copy)| copy.clone());
        let copy = copy.unwrap_or_default();
        let state = ClientState {
            model: WatchModel::new(options.is_initial, options.has_values, copy),
            counts: WatchCounts::default(),
            last_event_id: String::new(),
            refusal: None,
            failure: None,
        };
        Self {
            options,
            state: Mutex::new(state),
            reconnect: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
