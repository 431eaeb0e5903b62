//! Kind of settings that name IP networks (CIDR, RFC 4632).

use std::net::IpAddr;

use ipnet::IpNet;

use super::kinds::{Describe, Kind};

/// List of networks; empty: none.
pub struct Networks;

impl Describe for Networks {
    fn placeholder(&self) -> &'static str {
        "ADDRESS[/BITS],..."
    }
    fn expected(&self) -> String {
        "addresses or networks, separated by commas, as in 10.0.0.1,192.168.0.0/16".to_owned()
    }
}

impl Kind for Networks {
    type Value = Vec<IpNet>;
    fn parse(&self, text: &str) -> Option<Vec<IpNet>> {
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        parts.map(parse_network).collect()
    }
    fn write(&self, value: &Vec<IpNet>) -> Option<String> {
        let texts: Vec<String> = value.iter().map(IpNet::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
}

/// Parses a network, or a single address as the network that has no other.
fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_addresses_that_share_their_first_bits() {
        let contains = |networks: &str, address: &str| {
            let networks = Networks.parse(networks).unwrap();
            networks[0].contains(&address.parse::<IpAddr>().unwrap())
        };
        assert!(contains("10.0.0.1", "10.0.0.1") && !contains("10.0.0.1", "10.0.0.2"));
        assert!(contains("10.1.2.3/8", "10.9.8.7") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe00::1"));
        for invalid in ["10.0.0.0/33", "10.0.0/8", "::/129", "host", "10.0.0.1/"] {
            assert_eq!(Networks.parse(invalid), None, "{invalid}");
        }
    }
}
