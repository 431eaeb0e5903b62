//! Counters of connections.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::server::client_addresses::ClientAddresses;

/// Counters of the connections of a port, or of several that share a limit.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    open: AtomicU64,
    next_number: AtomicU32,
    accepted: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    evicted: AtomicU64,
    refused_requests: AtomicU64,
    /// Connections by client address.
    pub(crate) addresses: ClientAddresses,
    /// Refused sockets that are still open.
    lingering: AtomicUsize,
}

impl ConnectionMetrics {
    /// Counts a new connection, and returns its number, which is not reused for a long time.
    pub(crate) fn record_opened(&self) -> u32 {
        self.open.fetch_add(1, Ordering::Relaxed);
        // Numbers wrap around after 2^32 connections.
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a connection that was admitted.
    pub(crate) fn record_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record_closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refused socket that lingers. False if `max` of them do already.
    pub(crate) fn try_start_linger(&self, max: usize) -> bool {
        let more = |now: usize| (now < max).then_some(now + 1);
        let counted = self
            .lingering
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok()
    }

    pub(crate) fn end_linger(&self) {
        self.lingering.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record_refused_request(&self) {
        self.refused_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections accepted.
    pub fn accepted_connections(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of connections refused because there were too many.
    pub fn refused_connections(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the number of connections cut because the client was too slow, or at the end of a
    /// shutdown.
    pub fn cut_connections(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns the number of idle connections closed in favor of others.
    pub fn evicted_connections(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Returns the number of requests refused because too many were under way, or too many
    /// responses were pending.
    pub fn refused_requests(&self) -> u64 {
        self.refused_requests.load(Ordering::Relaxed)
    }

    /// Writes the counters under the names that all programs share.
    pub fn write(&self, text: &mut crate::telemetry::metrics::Exposition) {
        let counters = [
            (
                "cloudkv_http_connections_accepted_total",
                "Connections that were accepted.",
                self.accepted_connections(),
            ),
            (
                "cloudkv_http_connections_refused_total",
                "Connections beyond the limit, which were refused.",
                self.refused_connections(),
            ),
            (
                "cloudkv_http_connections_cut_total",
                "Connections that were cut when their time was over.",
                self.cut_connections(),
            ),
            (
                "cloudkv_http_connections_evicted_total",
                "Idle connections that were ended to make room for others.",
                self.evicted_connections(),
            ),
            (
                "cloudkv_http_requests_refused_total",
                "Requests refused since too many were under way, or too many answers waited.",
                self.refused_requests(),
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        let open = self.open_connections() as f64;
        text.gauge("cloudkv_http_connections", "Open connections.", &[], open);
    }
}
