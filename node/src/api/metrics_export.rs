//! Export of the public API's counters.

use cloudkv_common::telemetry::metrics::Exposition;

use super::ApiMetrics;

impl ApiMetrics {
    /// Writes the metrics of the public API.
    pub(crate) fn write(&self, text: &mut Exposition) {
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
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        self.connections.write(text);
    }
}
