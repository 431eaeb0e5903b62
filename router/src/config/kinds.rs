//! Kinds of settings that only a router has.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use cloudkv_common::config::{Describe, Kind};

/// A domain, in lower case and without a dot at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// Reads a domain; `None` if it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(byte);
        (text.len() <= 200 && text.split('.').all(label)).then_some(Self(text))
    }

    /// The domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A domain.
pub(super) struct DomainName;

impl Describe for DomainName {
    fn placeholder(&self) -> &'static str {
        "DOMAIN"
    }
    fn right(&self) -> String {
        "a domain, as in cloudkv.io".to_owned()
    }
}

impl Kind for DomainName {
    type Value = Domain;
    fn parse(&self, text: &str) -> Option<Domain> {
        Domain::parse(text)
    }
    fn write(&self, value: &Domain) -> Option<String> {
        Some(value.0.clone())
    }
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether an address is one of them. An IPv4 address may come in its IPv6 form.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| ()))?;
        (bits <= most).then_some(Self { address, bits }).ok_or(())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Several networks; empty: none.
pub(super) struct Networks;

impl Describe for Networks {
    fn placeholder(&self) -> &'static str {
        "ADDRESS[/BITS],..."
    }
    fn right(&self) -> String {
        "addresses or networks, separated by commas, as in 10.0.0.1,192.168.0.0/16".to_owned()
    }
}

impl Kind for Networks {
    type Value = Vec<Network>;
    fn parse(&self, text: &str) -> Option<Vec<Network>> {
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        parts.map(|part| part.parse().ok()).collect()
    }
    fn write(&self, value: &Vec<Network>) -> Option<String> {
        let texts: Vec<String> = value.iter().map(Network::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_told_from_what_is_none() {
        for right in ["cloudkv.io", "localhost", "A-b.Example.", "xn--p1ai"] {
            let domain = Domain::parse(right).unwrap();
            assert_eq!(
                domain.as_str(),
                right.trim_end_matches('.').to_ascii_lowercase()
            );
        }
        for wrong in ["", ".", "a..b", ".a", "a b", "a:80", "ü.de"] {
            assert_eq!(Domain::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks_contain_what_shares_their_first_bits() {
        let contains = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.1", "10.0.0.1") && !contains("10.0.0.1", "10.0.0.2"));
        assert!(contains("10.0.0.0/8", "10.9.8.7") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe00::1"));
        for wrong in ["10.0.0.0/33", "10.0.0/8", "::/129", "host", "10.0.0.1/"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
