//! Status and metrics of the metadata.

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

use super::Catalog;

impl Catalog {
    /// Describes the metadata's content: fields of the node's status.
    pub(crate) fn status(&self) -> Value {
        json!({
            "accounts": self.account_count(),
            "buckets": self.bucket_count(),
        })
    }

    /// Writes the metrics of the metadata's content.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let gauges = [
            (
                "cloudkv_accounts",
                "Accounts of the cluster.",
                self.account_count(),
            ),
            (
                "cloudkv_buckets",
                "Buckets of the cluster.",
                self.bucket_count(),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &[], value as f64);
        }
    }
}
