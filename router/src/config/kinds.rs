//! Kinds of settings of the router only.

use cloudkv_common::config::{Describe, Kind};

/// A domain, in lower case and without a dot at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// Parses a domain; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_label =
            |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_label_byte);
        (text.len() <= 200 && text.split('.').all(is_label)).then_some(Self(text))
    }

    /// Returns the domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Kind of a setting with a domain.
pub(super) struct DomainName;

impl Describe for DomainName {
    fn placeholder(&self) -> &'static str {
        "DOMAIN"
    }
    fn expected(&self) -> String {
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
    fn valid_domains_are_parsed_and_others_refused() {
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
