//! Checks of constraints between settings.

use cloudkv_common::config::{ConfigError, check_admin_token, check_distinct_addresses};

use super::settings::Config;

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    check_admin_token(config.admin, config.admin_token.as_ref())?;
    check_certificates(config)?;
    check_rpc_certificates(config)?;
    check_advertise_rpc(config)?;
    check_addresses(config)?;
    check_init_and_join(config)?;
    check_batch_size(config)?;
    check_watch_buffers(config)
}

/// Names of the certificate settings, and whether each is set.
fn certificate_settings(config: &Config) -> [(&'static str, bool); 3] {
    [
        ("rpc_cert", config.rpc_cert.is_some()),
        ("rpc_key", config.rpc_key.is_some()),
        ("rpc_ca", config.rpc_ca.is_some()),
    ]
}

fn check_certificates(config: &Config) -> Result<(), ConfigError> {
    let named = |set| {
        let all = certificate_settings(config).into_iter();
        let names: Vec<&str> = all
            .filter_map(|(name, is_set)| (is_set == set).then_some(name))
            .collect();
        names.join(" and ")
    };
    let (set, missing) = (named(true), named(false));
    if set.is_empty() || missing.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!("{set} without {missing}"),
        right: "set all three of rpc_cert, rpc_key and rpc_ca, or none".to_owned(),
    })
}

fn check_rpc_certificates(config: &Config) -> Result<(), ConfigError> {
    let rpc = config.rpc_address();
    if rpc.ip().is_loopback() || config.rpc_cert.is_some() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!("rpc = \"{rpc}\" can be reached from other machines"),
        right: "set rpc_cert, rpc_key and rpc_ca as well (`cloudkv-node certs` makes them), or a \
                loopback address"
            .to_owned(),
    })
}

fn check_advertise_rpc(config: &Config) -> Result<(), ConfigError> {
    let rpc = config.rpc_address();
    if !rpc.ip().is_unspecified() || config.advertise_rpc.is_some() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!("rpc = \"{rpc}\" is no address to connect to"),
        right: "set advertise_rpc to the host and port at which other nodes reach this one"
            .to_owned(),
    })
}

fn check_init_and_join(config: &Config) -> Result<(), ConfigError> {
    if !config.init || config.join.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: "init creates a cluster, and join joins one".to_owned(),
        right: "give init to the first node, and join to the others".to_owned(),
    })
}

fn check_addresses(config: &Config) -> Result<(), ConfigError> {
    let mut ports = vec![("http", config.http), ("admin", config.admin)];
    if config.listens_for_nodes() {
        ports.insert(1, ("rpc", config.rpc_address()));
    }
    check_distinct_addresses(&ports)
}

fn check_batch_size(config: &Config) -> Result<(), ConfigError> {
    if config.max_batch_kib.bytes() <= config.proposal_queue_mib.bytes() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!(
            "max_batch_kib = {} is more than proposal_queue_mib = {} holds",
            config.max_batch_kib, config.proposal_queue_mib
        ),
        right: format!(
            "max_batch_kib of at most {}, or a larger proposal_queue_mib",
            config.proposal_queue_mib.bytes() >> 10
        ),
    })
}

fn check_watch_buffers(config: &Config) -> Result<(), ConfigError> {
    if config.watch_buffer_kib.bytes() <= config.watch_buffers_mib.bytes() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!(
            "watch_buffer_kib = {} is more than watch_buffers_mib = {} holds",
            config.watch_buffer_kib, config.watch_buffers_mib
        ),
        right: format!(
            "watch_buffer_kib of at most {}, or a larger watch_buffers_mib",
            config.watch_buffers_mib.bytes() >> 10
        ),
    })
}
