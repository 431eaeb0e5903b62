//! Metrics of requests.

use std::time::Duration;

use cloudkv_common::telemetry::metrics::{Counter, Exposition, Histogram};
use http::StatusCode;

/// Metrics of requests. Cheap to update from any thread.
#[derive(Debug)]
pub(crate) struct ProxyMetrics {
    /// Responses by the first digit of their status, from 1 to 5.
    responses: [Counter; 5],
    /// Error responses of the router itself.
    pub refusals: Counter,
    /// Requests that were sent over a stream of calls, not by HTTP.
    pub streamed: Counter,
    /// Retries.
    pub retries: Counter,
    /// Retries that the budget didn't allow.
    pub retries_denied: Counter,
    /// Requests that were sent to another region than the current one.
    pub detours: Counter,
    /// Requests with an unknown outcome.
    pub unknown_outcomes: Counter,
    durations: Histogram,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self {
            responses: Default::default(),
            refusals: Counter::default(),
            streamed: Counter::default(),
            retries: Counter::default(),
            retries_denied: Counter::default(),
            detours: Counter::default(),
            unknown_outcomes: Counter::default(),
            durations: Histogram::for_durations(),
        }
    }
}

impl ProxyMetrics {
    /// Records a response and the time until its head.
    pub(super) fn record_response(&self, status: StatusCode, elapsed: Duration) {
        let digit = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.responses[digit - 1].increment();
        self.durations.record_duration(elapsed);
    }

    /// Writes all metrics.
    pub(crate) fn write(&self, text: &mut Exposition) {
        for (digit, responses) in (1..).zip(&self.responses) {
            let status = format!("{digit}xx");
            text.counter(
                "cloudkv_router_requests_total",
                "Requests that were answered.",
                &[("status", &status)],
                responses.value(),
            );
        }
        let counters = [
            (
                "cloudkv_router_refusals_total",
                "Requests that the router answered itself with an error: it reached no node, or no \
                 fit one.",
                &self.refusals,
            ),
            (
                "cloudkv_router_streamed_total",
                "Requests for keys that were sent over a stream of calls, not by HTTP.",
                &self.streamed,
            ),
            (
                "cloudkv_router_retries_total",
                "Requests that were retried at another node.",
                &self.retries,
            ),
            (
                "cloudkv_router_retries_denied_total",
                "Retries that the retry budget did not allow.",
                &self.retries_denied,
            ),
            (
                "cloudkv_router_detours_total",
                "Requests for the global name that went to another region than the current one.",
                &self.detours,
            ),
            (
                "cloudkv_router_unknown_outcomes_total",
                "Requests without a response of their node that may have been executed.",
                &self.unknown_outcomes,
            ),
        ];
        for (name, help, counter) in counters {
            text.counter(name, help, &[], counter.value());
        }
        text.histogram(
            "cloudkv_router_request_seconds",
            "Time until the head of a response, over all attempts.",
            &[],
            self.durations.snapshot(),
        );
    }
}
