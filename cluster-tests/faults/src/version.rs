//! Versions as ETags and session tokens encode them.
//!
//! ETags and session tokens are opaque to clients. Checks of the order of versions must read them,
//! so this duplicates the node's format.

use std::fmt;

/// Orders two writes of a key: the later one wins, and of two at the same time that of the region
/// with the greater number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Nanoseconds since 1970, by the clock of the region that wrote.
    pub time: u64,
    /// Number of the region.
    pub region: u32,
}

impl Version {
    /// Parses an ETag, quotes included.
    pub fn from_etag(etag: &str) -> Option<Self> {
        let text = etag.strip_prefix('"')?.strip_suffix('"')?;
        let (time, region) = text.split_once('-')?;
        Some(Self {
            time: u64::from_str_radix(time, 16).ok()?,
            region: region.parse().ok()?,
        })
    }

    /// Parses the session token of a client that has seen nothing else.
    pub fn from_token(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let region = parts.next()?;
        let (_incarnation, _shard) = (parts.next()?, parts.next()?);
        let time = parts.next()?;
        let parse_hex = |text| u64::from_str_radix(text, 16).ok();
        let is_last = parts.next().is_none();
        is_last.then_some(Self {
            time: parse_hex(time)?,
            region: u32::try_from(parse_hex(region)?).ok()?,
        })
    }

    /// Formats an ETag, quotes included.
    pub fn etag(&self) -> String {
        format!("\"{self}\"")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.time, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn etags_and_tokens_hold_the_version() {
        let version = Version {
            time: 0x1878_0000_0000_00ff,
            region: 2,
        };
        assert_eq!(version.etag(), "\"18780000000000ff-2\"");
        assert_eq!(Version::from_etag(&version.etag()), Some(version));
        assert_eq!(
            Version::from_token("2.abc.1.18780000000000ff"),
            Some(version)
        );
        for invalid in ["", "x", "1.2.3", "2.a.1.4d_2.a.3.ff"] {
            assert_eq!(Version::from_token(invalid), None, "{invalid}");
            assert_eq!(Version::from_etag(invalid), None, "{invalid}");
        }
        assert!(
            version
                > Version {
                    region: 1,
                    ..version
                }
        );
    }
}
