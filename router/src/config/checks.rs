//! Checks of constraints between settings.

use cloudkv_common::config::{ConfigError, check_admin_token, check_distinct_addresses};

use super::Config;

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let conflict = |problem: String, right: &str| {
        let right = right.to_owned();
        Err(ConfigError::Conflict { problem, right })
    };
    if config.seeds.is_empty() {
        return conflict(
            "seeds is empty".to_owned(),
            "name at least one node, as in node1:7070",
        );
    }
    check_admin_token(config.admin, config.admin_token.as_ref())?;
    let files = (&config.tls_cert, &config.tls_key);
    if config.https.is_some() && !matches!(files, (Some(_), Some(_))) {
        return conflict(
            "https needs a certificate".to_owned(),
            "give tls_cert and tls_key, or leave https out",
        );
    }
    if config.https.is_none() && !matches!(files, (None, None)) {
        return conflict(
            "tls_cert and tls_key have no effect without https".to_owned(),
            "give https an address, as in 0.0.0.0:443",
        );
    }
    let given = [&config.rpc_cert, &config.rpc_key, &config.rpc_ca];
    let given = given.iter().filter(|file| file.is_some()).count();
    if !matches!(given, 0 | 3) {
        return conflict(
            "rpc_cert, rpc_key and rpc_ca are only valid together".to_owned(),
            "give all three, or none",
        );
    }
    let mut ports = vec![("http", config.http)];
    ports.extend(config.https.map(|address| ("https", address)));
    ports.push(("admin", config.admin));
    check_distinct_addresses(&ports)
}
