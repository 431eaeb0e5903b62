//! Kinds of settings that name other machines.

use super::kinds::{Describe, Kind};

/// Reads `host:port`; `None` if it can't be one.
pub(super) fn host_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let sane = v6 || (!host.is_empty() && host.bytes().all(name));
    let port = port.parse::<u16>().is_ok_and(|port| port != 0);
    (sane && port && text.len() <= 255).then(|| text.to_owned())
}

/// Where a machine is reached.
pub struct HostPort;

impl Describe for HostPort {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT"
    }
    fn right(&self) -> String {
        "a host's name or address, and a port, as in node1:7070 or 10.0.0.1:7070".to_owned()
    }
}

impl Kind for HostPort {
    type Value = String;
    fn parse(&self, text: &str) -> Option<String> {
        host_port(text)
    }
    fn write(&self, value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// What people call a node.
pub struct NodeName;

/// Most bytes of a node's name.
const MAX_NODE_NAME: usize = 63;

impl Describe for NodeName {
    fn placeholder(&self) -> &'static str {
        "NAME"
    }
    fn right(&self) -> String {
        format!(
            "1 to {MAX_NODE_NAME} letters, digits, dots, dashes and underscores, not digits alone, as \
             in eu-1"
        )
    }
}

impl Kind for NodeName {
    type Value = String;
    fn parse(&self, text: &str) -> Option<String> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let right = (1..=MAX_NODE_NAME).contains(&text.len()) && text.bytes().all(sane);
        (right && !is_number).then(|| text.to_owned())
    }
    fn write(&self, value: &String) -> Option<String> {
        Some(value.clone())
    }
}

/// Several of them; empty: none.
pub struct HostPorts;

impl Describe for HostPorts {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT,..."
    }
    fn right(&self) -> String {
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
        parts.map(host_port).collect()
    }
    fn write(&self, value: &Vec<String>) -> Option<String> {
        (!value.is_empty()).then(|| value.join(","))
    }
}

/// Addresses that others stand for; empty: none.
pub struct Detours;

impl Describe for Detours {
    fn placeholder(&self) -> &'static str {
        "HOST:PORT=HOST:PORT,..."
    }
    fn right(&self) -> String {
        "pairs of hosts and ports, as in node1:7070=127.0.0.1:9001,node2:7070=127.0.0.1:9002"
            .to_owned()
    }
}

impl Kind for Detours {
    type Value = Vec<(String, String)>;
    fn parse(&self, text: &str) -> Option<Self::Value> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (from, to) = part.split_once('=')?;
            Some((host_port(from)?, host_port(to)?))
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
    fn hosts_and_ports_are_told_from_what_is_none() {
        for right in ["node1:7070", "10.0.0.1:1", "[::1]:7070", "a-b.c_d:65535"] {
            assert_eq!(host_port(right).as_deref(), Some(right));
        }
        for wrong in [
            "node1",
            ":7070",
            "node1:",
            "node1:0",
            "node1:65536",
            "::1:7070",
            "a b:1",
            "[x]:1",
        ] {
            assert_eq!(host_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_cannot_be_taken_for_a_number() {
        for right in ["eu-1", "a", "10.0.0.1", "node_2.example"] {
            assert_eq!(NodeName.parse(right).as_deref(), Some(right));
        }
        for wrong in ["", "17", "a b", "a/b", "ü", &"x".repeat(64)] {
            assert_eq!(NodeName.parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_split_at_commas() {
        let list = HostPorts.parse("a:1, b:2,").unwrap();
        assert_eq!(list, ["a:1", "b:2"]);
        assert_eq!(HostPorts.write(&list).as_deref(), Some("a:1,b:2"));
        assert_eq!(HostPorts.parse("").unwrap(), Vec::<String>::new());
        assert!(HostPorts.parse("a:1,b").is_none());
        let pairs = Detours.parse("a:1=b:2").unwrap();
        assert_eq!(pairs, [("a:1".to_owned(), "b:2".to_owned())]);
        assert!(Detours.parse("a:1").is_none());
    }
}
