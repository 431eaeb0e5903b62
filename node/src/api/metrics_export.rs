//! Export of the public API's counters, and of the status of its streams.

use cloudkv_common::telemetry::metrics::Exposition;

use super::Api;
use super::metrics::ApiMetrics;
use crate::service::WatchStatus;

impl Api {
    /// Writes the metrics of the public API.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        self.metrics.write(text);
        write_watches(&self.service.watches.status(), text);
        for (name, help, permits) in [
            (
                "cloudkv_exports_running",
                "Number of exports that are running.",
                &self.export_permits,
            ),
            (
                "cloudkv_imports_running",
                "Number of imports that are running.",
                &self.import_permits,
            ),
        ] {
            text.gauge(name, help, &[], permits.taken() as f64);
        }
    }
}

fn write_watches(status: &WatchStatus, text: &mut Exposition) {
    let gauges = [
        (
            "cloudkv_watchers",
            "Number of event streams of clients that watch a bucket or a key.",
            status.watchers,
        ),
        (
            "cloudkv_watched_buckets",
            "Number of buckets that are watched.",
            status.watched_buckets,
        ),
        (
            "cloudkv_watch_buffer_bytes",
            "Bytes of changes that some watcher has yet to be told.",
            status.buffered_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        text.gauge(name, help, &[], value as f64);
    }
    let help = "Changes that watchers were told, each counted for each watcher.";
    text.counter("cloudkv_watch_events_total", help, &[], status.events);
    let help = "Watchers that were told that they may have missed changes.";
    text.counter("cloudkv_watch_resets_total", help, &[], status.resets);
    for (reason, count) in &status.refused {
        let help = "Watches that were refused for the moment.";
        let labels = [("reason", *reason)];
        text.counter("cloudkv_watch_refused_total", help, &labels, *count);
    }
    for (reason, count) in &status.ended {
        let help = "Watches that have ended.";
        let labels = [("reason", *reason)];
        text.counter("cloudkv_watch_ended_total", help, &labels, *count);
    }
}

impl ApiMetrics {
    fn write(&self, text: &mut Exposition) {
        for count in self.request_counts() {
            let status = format!("{}xx", count.status);
            let labels = [("class", count.class.name()), ("status", status.as_str())];
            let help = "Requests of the public API that were answered; a batch is one of them.";
            text.counter("cloudkv_http_requests_total", help, &labels, count.count);
        }
        let counters = [
            (
                "cloudkv_http_received_bytes_total",
                "Bytes of request bodies.",
                self.bytes_in(),
            ),
            (
                "cloudkv_http_sent_bytes_total",
                "Bytes of response bodies.",
                self.bytes_out(),
            ),
            (
                "cloudkv_exported_keys_total",
                "Keys that exports have sent.",
                self.exported_keys(),
            ),
            (
                "cloudkv_imported_keys_total",
                "Keys that imports have written.",
                self.imported_keys(),
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        self.connections.write(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_told_by_reason() {
        let status = WatchStatus {
            watchers: 7,
            watched_buckets: 2,
            buffered_bytes: 300,
            events: 11,
            resets: 1,
            refused: vec![("not_serving", 3), ("draining", 0)],
            ended: vec![("closed", 4)],
        };
        let mut text = Exposition::new();
        write_watches(&status, &mut text);
        let text = text.finish();
        for line in [
            "cloudkv_watchers 7",
            "cloudkv_watched_buckets 2",
            "cloudkv_watch_buffer_bytes 300",
            "cloudkv_watch_events_total 11",
            "cloudkv_watch_resets_total 1",
            "cloudkv_watch_refused_total{reason=\"not_serving\"} 3",
            "cloudkv_watch_refused_total{reason=\"draining\"} 0",
            "cloudkv_watch_ended_total{reason=\"closed\"} 4",
        ] {
            let is_line = |it: &str| it.strip_suffix(".0").unwrap_or(it) == line;
            assert!(text.lines().any(is_line), "{line}: {text}");
        }
    }
}
