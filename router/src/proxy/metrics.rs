//! What is counted of requests.

use std::time::Duration;

use cloudkv_common::telemetry::metrics::{Counter, Exposition, Histogram};
use http::StatusCode;

/// Counters of requests. Cheap to add to from any thread.
#[derive(Debug)]
pub struct ProxyMetrics {
    /// By the first digit of their status, from 1 to 5.
    answers: [Counter; 5],
    /// Answers of the router's own.
    pub refusals: Counter,
    /// Requests that were answered over a stream of calls, not by HTTP.
    pub streamed: Counter,
    /// Requests that were sent to another node after one that didn't answer.
    pub retries: Counter,
    /// Those that would have been, had there been any left in the budget.
    pub retries_denied: Counter,
    /// Requests that another region than the current one was asked for.
    pub detours: Counter,
    /// Answers that said that the outcome is unknown, of the router's own.
    pub unknown: Counter,
    times: Histogram,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self {
            answers: Default::default(),
            refusals: Counter::default(),
            streamed: Counter::default(),
            retries: Counter::default(),
            retries_denied: Counter::default(),
            detours: Counter::default(),
            unknown: Counter::default(),
            times: Histogram::of_times(),
        }
    }
}

impl ProxyMetrics {
    /// Counts an answer, whose head took this long.
    pub(super) fn answered(&self, status: StatusCode, after: Duration) {
        let digit = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.answers[digit - 1].increment();
        self.times.record_time(after);
    }

    /// Writes all of it down.
    pub fn write(&self, text: &mut Exposition) {
        for (digit, answers) in (1..).zip(&self.answers) {
            let status = format!("{digit}xx");
            text.counter(
                "cloudkv_router_requests_total",
                "Requests that were answered.",
                &[("status", &status)],
                answers.value(),
            );
        }
        let counters = [
            (
                "cloudkv_router_refusals_total",
                "Requests that the router answered itself: it reached no node, or no fit one.",
                &self.refusals,
            ),
            (
                "cloudkv_router_streamed_total",
                "Requests of keys that went to their node over a stream of calls, not by HTTP.",
                &self.streamed,
            ),
            (
                "cloudkv_router_retries_total",
                "Requests that were sent once more, to another node.",
                &self.retries,
            ),
            (
                "cloudkv_router_retries_denied_total",
                "Requests that were not sent once more, since too many were.",
                &self.retries_denied,
            ),
            (
                "cloudkv_router_detours_total",
                "Requests by the global name for which another region was asked than the current one.",
                &self.detours,
            ),
            (
                "cloudkv_router_unknown_outcomes_total",
                "Requests whose node didn't answer, and that may have been done.",
                &self.unknown,
            ),
        ];
        for (name, help, counter) in counters {
            text.counter(name, help, &[], counter.value());
        }
        text.histogram(
            "cloudkv_router_request_seconds",
            "Time until the head of an answer came, all tries together.",
            &[],
            &self.times.snapshot(),
        );
    }
}
