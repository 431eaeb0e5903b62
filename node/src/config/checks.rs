//! What must hold between settings that are each right alone.

use super::{Config, ConfigError};

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    operator_port_is_guarded(config)?;
    addresses_differ(config)?;
    init_or_join(config)?;
    batches_fit_the_queue(config)
}

fn operator_port_is_guarded(config: &Config) -> Result<(), ConfigError> {
    if config.admin.ip().is_loopback() || config.admin_token.is_some() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!(
            "admin = \"{}\" can be reached from other machines",
            config.admin
        ),
        right: "set admin_token as well (CLOUDKV_ADMIN_TOKEN), or a loopback address".to_owned(),
    })
}

fn init_or_join(config: &Config) -> Result<(), ConfigError> {
    if !config.init || config.join.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: "init creates a cluster, and join joins one".to_owned(),
        right: "give init to the first node, and join to the others".to_owned(),
    })
}

fn addresses_differ(config: &Config) -> Result<(), ConfigError> {
    let named = [
        ("http", config.http),
        ("rpc", config.rpc),
        ("admin", config.admin),
    ];
    for (index, (name, address)) in named.into_iter().enumerate() {
        let same = named[..index].iter().find(|(_, other)| *other == address);
        // Port 0 lets the system choose one.
        if let Some((other, _)) = same.filter(|_| address.port() != 0) {
            return Err(ConfigError::Conflict {
                problem: format!("{other} and {name} are both \"{address}\""),
                right: "give each an address or a port of its own".to_owned(),
            });
        }
    }
    Ok(())
}

fn batches_fit_the_queue(config: &Config) -> Result<(), ConfigError> {
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
