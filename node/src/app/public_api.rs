//! Builds the public API from the configuration.

use std::io;
use std::sync::Arc;

use cloudkv_common::process::SystemError;
use cloudkv_common::server::MemoryBudget;
use http::HeaderValue;

use super::errors::RunError;
use crate::api::{Api, BatchLimits, ConcurrencyLimits, CreationSettings, HttpSettings};
use crate::config::Config;
use crate::service::Service;

/// Builds the API of a node of `region`.
pub(super) fn build_api(
    config: &Config,
    service: Service,
    region: &str,
    http: &HttpSettings,
) -> Result<Arc<Api>, RunError> {
    let creations = CreationSettings {
        per_hour: config.address_creations_per_hour,
        trusted_proxies: config.trusted_proxies.clone(),
    };
    let batches = BatchLimits {
        operations: config.batch_operations,
        // No client gets more than half of the memory for bodies.
        bytes: config
            .batch_mib
            .bytes()
            .min(config.body_memory_mib.bytes() / 2),
    };
    let concurrency = ConcurrencyLimits {
        exports: config.max_exports,
        imports: config.max_imports,
    };
    let api = Api::new(service, region, http, creations, batches, concurrency);
    let api = api.map_err(io::Error::other);
    let api = api.map_err(SystemError::while_doing("name the region"))?;
    Ok(Arc::new(api))
}

/// Settings of HTTP on the public port.
pub(super) fn http_settings(config: &Config, cluster_id: &str) -> HttpSettings {
    // With certificates, routers authenticate by theirs.
    let token = HeaderValue::from_str(cluster_id).ok();
    let token = token.filter(|token| config.rpc_cert.is_none() && !token.is_empty());
    HttpSettings {
        max_connections: config.max_connections,
        max_address_connections: config.address_connections,
        max_address_requests: config.address_requests,
        trusted_proxies: config.trusted_proxies.clone().into(),
        router_token: token,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        write_timeout: config.write_timeout,
        response_memory: Arc::new(MemoryBudget::new(config.answer_memory_mib.bytes())),
        max_connection_response_bytes: config.connection_answers_kib.bytes(),
        body_timeout: config.body_timeout,
        min_body_rate: config.min_body_rate,
        body_memory_bytes: config.body_memory_mib.bytes(),
        drain_timeout: config.drain_timeout,
        ..HttpSettings::default()
    }
}
