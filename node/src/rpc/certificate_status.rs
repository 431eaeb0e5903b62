//! Status and metrics of the rpc port's certificate.

use std::time::SystemTime;

use cloudkv_common::telemetry::metrics::Exposition;
use cloudkv_common::transport::tls::Tls;
use serde_json::{Value, json};

/// Describes the certificate for the node's status.
pub(crate) fn certificate_status(tls: &Tls) -> Value {
    json!({ "days_left": tls.days_left(), "stale": tls.is_stale() })
}

/// Writes the metrics of the certificate.
pub(crate) fn write_certificate_metrics(tls: &Tls, text: &mut Exposition) {
    let expires = tls.valid_until().duration_since(SystemTime::UNIX_EPOCH);
    let help = "Time at which this node's certificate expires, in seconds since 1970.";
    let expires = expires.map_or(0.0, |since_epoch| since_epoch.as_secs_f64());
    text.gauge(
        "cloudkv_rpc_certificate_expires_seconds",
        help,
        &[],
        expires,
    );
    let help = "1 if there are newer certificate files that can't be used.";
    let stale = f64::from(u8::from(tls.is_stale()));
    text.gauge("cloudkv_rpc_certificate_stale", help, &[], stale);
    let help = "Connections between nodes that were refused without a valid certificate.";
    let refused = tls.refused_connections();
    text.counter("cloudkv_rpc_refused_connections_total", help, &[], refused);
}
