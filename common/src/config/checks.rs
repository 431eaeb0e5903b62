//! Checks of constraints between settings that several programs have.

use std::net::SocketAddr;

use super::error::ConfigError;
use super::values::Secret;

/// Checks that the admin port has a token if other machines can reach it.
///
/// # Errors
/// Fails if it has none.
pub fn check_admin_token(admin: SocketAddr, token: Option<&Secret>) -> Result<(), ConfigError> {
    if admin.ip().is_loopback() || token.is_some() {
        return Ok(());
    }
    Err(ConfigError::Conflict {
        problem: format!("admin = \"{admin}\" can be reached from other machines"),
        right: "set admin_token as well (CLOUDKV_ADMIN_TOKEN), or a loopback address".to_owned(),
    })
}

/// Checks that no two ports, given by their settings' names, have the same address.
///
/// # Errors
/// Fails if two have, unless the system chooses their ports.
pub fn check_distinct_addresses(ports: &[(&str, SocketAddr)]) -> Result<(), ConfigError> {
    for (index, (name, address)) in ports.iter().enumerate() {
        let same = ports[..index].iter().find(|(_, other)| other == address);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_port_beyond_the_loopback_interface_needs_a_token() {
        let token = Secret::new("0123456789abcdef".to_owned());
        let [inside, outside] =
            ["127.0.0.1:1", "10.0.0.1:1"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert!(check_admin_token(inside, None).is_ok());
        assert!(check_admin_token(outside, Some(&token)).is_ok());
        assert!(check_admin_token(outside, None).is_err());
    }

    #[test]
    fn equal_addresses_are_refused_unless_the_system_chooses_the_port() {
        let ports = |text: &str| {
            let address = text.parse::<SocketAddr>().unwrap();
            [("http", address), ("admin", address)]
        };
        assert!(check_distinct_addresses(&ports("127.0.0.1:0")).is_ok());
        let error = check_distinct_addresses(&ports("127.0.0.1:1")).unwrap_err();
        let expected = "http and admin are both \"127.0.0.1:1\": give each an address or a port of \
                        its own";
        assert_eq!(error.to_string(), expected);
    }
}
