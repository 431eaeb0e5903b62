//! Types of settings' values that the standard library lacks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::hosts::is_host_name;

/// Declares a type of sizes in a binary unit.
macro_rules! size {
    ($(#[$doc:meta])* $name:ident, $shift:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub usize);

        impl $name {
            /// Returns the size in bytes.
            pub const fn bytes(self) -> usize {
                self.0 << $shift
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

size! {
    /// Size in KiB.
    Kib, 10
}

size! {
    /// Size in MiB.
    Mib, 20
}

/// Name of a region: 1 to 32 characters out of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName(String);

impl RegionName {
    /// Parses a name; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let is_valid =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=32).contains(&text.len()) && text.bytes().all(is_valid);
        is_name.then(|| Self(text.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is never written to a log, a message or the printed configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes `text` a secret.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Address of an admin port: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTarget(String);

impl AdminTarget {
    /// Parses `http://host:port`, `host:port`, or an address to listen on: the unspecified
    /// addresses (`0.0.0.0`, `[::]`) are replaced by the loopback address. `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let authority = text
            .strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/');
        if let Ok(address) = SocketAddr::from_str(authority) {
            return Some(address.into());
        }
        let (host, port) = authority.rsplit_once(':')?;
        (is_host_name(host) && port.parse::<u16>().is_ok()).then(|| Self(authority.to_owned()))
    }

    /// Returns `host:port`, as connections and the `Host` header need it.
    pub fn authority(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for AdminTarget {
    /// Returns the address at which a port that listens on `address` is reached from its machine.
    fn from(mut address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        Self(address.to_string())
    }
}

impl fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}
