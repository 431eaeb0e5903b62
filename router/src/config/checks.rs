//! Checks of constraints between settings.

use cloudkv_common::config::ConfigError;

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
    if !config.admin.ip().is_loopback() && config.admin_token.is_none() {
        return conflict(
            format!(
                "admin = \"{}\" can be reached from other machines",
                config.admin
            ),
            "set admin_token as well (CLOUDKV_ADMIN_TOKEN), or a loopback address",
        );
    }
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
    addresses_differ(config)
}

fn addresses_differ(config: &Config) -> Result<(), ConfigError> {
    let named = [
        ("http", Some(config.http)),
        ("https", config.https),
        ("admin", Some(config.admin)),
    ];
    for (index, (name, address)) in named.into_iter().enumerate() {
        // Port 0 lets the system choose one.
        let Some(address) = address.filter(|address| address.port() != 0) else {
            continue;
        };
        let same = named[..index]
            .iter()
            .find(|(_, other)| *other == Some(address));
        if let Some((other, _)) = same {
            return Err(ConfigError::Conflict {
                problem: format!("{other} and {name} are both \"{address}\""),
                right: "give each an address or a port of its own".to_owned(),
            });
        }
    }
    Ok(())
}
