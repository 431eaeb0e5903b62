//! Kinds of settings that only a router has.

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
}
