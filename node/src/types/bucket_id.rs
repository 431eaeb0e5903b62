//! Names of buckets.

use std::fmt;

/// Name of a bucket: `a` and 13 characters of base62. It is a credential of public buckets, so its
/// `Debug` form, which gets into logs, is cut short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId([u8; BucketId::LEN]);

impl BucketId {
    /// Length of a bucket ID, in bytes.
    pub const LEN: usize = 14;

    /// Parses an ID from a path; `None` if no bucket can have that name.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = text.try_into().ok()?;
        let is_valid = bytes[0] == b'a' && bytes.iter().all(u8::is_ascii_alphanumeric);
        is_valid.then_some(Self(bytes))
    }

    /// Draws an ID from the system's random source.
    pub fn random() -> Result<Self, getrandom::Error> {
        const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut id = [b'a'; Self::LEN];
        let mut at = 1;
        while at < Self::LEN {
            let mut random = [0_u8; 32];
            getrandom::fill(&mut random)?;
            // Values past the last multiple of 62 would favour some characters.
            for byte in random.into_iter().filter(|byte| *byte < 248) {
                if at < Self::LEN {
                    id[at] = BASE62[usize::from(byte % 62)];
                    at += 1;
                }
            }
        }
        Ok(Self(id))
    }

    /// Returns the whole name, for responses to clients that know it already.
    pub fn as_str(&self) -> &str {
        // A name contains ASCII letters and digits only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Bytes of the name.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", &self.as_str()[..5])
    }
}
