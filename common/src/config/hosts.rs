//! Kinds of settings that name other hosts.

use super::kinds::{Describe, Kind};
use crate::hosts::{is_host_name, without_brackets};

/// Parses `host:port`; `None` if it is invalid.
pub(super) fn parse_host_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let is_host = match without_brackets(host) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (is_host && is_port && text.len() <= 255).then(|| text.to_owned())
}

/// Host and port.
pub struct HostPort;

impl Describe for HostPort {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT"
    }
    fn expected(&self) -> String {
        "a host's name or address, and a port, as in node1:7070 or 10.0.0.1:7070".to_owned()
    }
}

impl Kind for HostPort {
    type Value = String;
    fn parse(&self, text: &str) -> Option<String> {
        parse_host_port(text)
    }
    fn write(&self, value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// Name of a node.
pub struct NodeName;

/// Maximum length of a node's name.
const MAX_NODE_NAME_BYTES: usize = 63;

impl Describe for NodeName {
    fn placeholder(&self) -> &'static str {
        "NAME"
    }
    fn expected(&self) -> String {
        format!(
            "1 to {MAX_NODE_NAME_BYTES} letters, digits, dots, dashes and underscores, not digits \
             alone, as in eu-1"
        )
    }
}

impl Kind for NodeName {
    type Value = String;
    fn parse(&self, text: &str) -> Option<String> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = text.len() <= MAX_NODE_NAME_BYTES && is_host_name(text);
        (is_name && !is_number).then(|| text.to_owned())
    }
    fn write(&self, value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// List of hosts and ports; empty: none.
pub struct HostPorts;

impl Describe for HostPorts {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT,..."
    }
    fn expected(&self) -> String {
        "hosts and ports, separated by commas, as in node1:7070,node2:7070".to_owned()
    }
}

impl Kind for HostPorts {
    type Value = Vec<String>;
    fn parse(&self, text: &str) -> Option<Vec<String>> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(parse_host_port).collect()
    }
    fn write(&self, value: &Vec<String>) -> Option<String> {
        (!value.is_empty()).then(|| value.join(","))
    }
}

/// Pairs of an address and the one to which its connections are redirected; empty: none.
pub struct AddressOverrides;

impl Describe for AddressOverrides {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT=HOST:PORT,..."
    }
    fn expected(&self) -> String {
        "pairs of hosts and ports, as in node1:7070=127.0.0.1:9001,node2:7070=127.0.0.1:9002"
            .to_owned()
    }
}

impl Kind for AddressOverrides {
    type Value = Vec<(String, String)>;
    fn parse(&self, text: &str) -> Option<Self::Value> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (from, to) = part.split_once('=')?;
            Some((parse_host_port(from)?, parse_host_port(to)?))
        };
        parts.map(pair).collect()
    }
    fn write(&self, value: &Self::Value) -> Option<String> {
        let pairs: Vec<String> = value
            .iter()
            .map(|(from, to)| format!("{from}={to}"))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_with_ports_are_accepted() {
        for valid in ["node1:7070", "10.0.0.1:1", "[::1]:7070", "a-b.c_d:65535"] {
            assert_eq!(parse_host_port(valid).as_deref(), Some(valid));
        }
        for invalid in [
            "node1",
            ":7070",
            "node1:",
            "node1:0",
            "node1:65536",
            "::1:7070",
            "a b:1",
            "[x]:1",
        ] {
            assert_eq!(parse_host_port(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn a_name_cannot_be_a_number() {
        for valid in ["eu-1", "a", "10.0.0.1", "node_2.example"] {
            assert_eq!(NodeName.parse(valid).as_deref(), Some(valid));
        }
        for invalid in ["", "17", "a b", "a/b", "ü", &"x".repeat(64)] {
            assert_eq!(NodeName.parse(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn lists_are_split_at_commas() {
        let list = HostPorts.parse("a:1, b:2,").unwrap();
        assert_eq!(list, ["a:1", "b:2"]);
        assert_eq!(HostPorts.write(&list).as_deref(), Some("a:1,b:2"));
        assert_eq!(HostPorts.parse("").unwrap(), Vec::<String>::new());
        assert!(HostPorts.parse("a:1,b").is_none());
        let pairs = AddressOverrides.parse("a:1=b:2").unwrap();
        assert_eq!(pairs, [("a:1".to_owned(), "b:2".to_owned())]);
        assert!(AddressOverrides.parse("a:1").is_none());
    }
}
