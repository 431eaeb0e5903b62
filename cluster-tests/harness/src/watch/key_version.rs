//! Versions of keys as events and lists have them: their order is that of the changes of a key.

use serde_json::Value;

/// A version: of two, the later one wins, and of two at the same time that of the region with the
/// greater number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyVersion {
    time: u64,
    region: u32,
}

impl KeyVersion {
    /// Parses the text of a version: 16 hexadecimal digits, a dash, and the region's number.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, region) = text.split_once('-')?;
        if time.len() != 16 {
            return None;
        }
        Some(Self {
            time: u64::from_str_radix(time, 16).ok()?,
            region: region.parse().ok()?,
        })
    }

    /// Returns the version in the `version` field of a key's entry.
    pub fn of(fields: &Value) -> Option<Self> {
        Self::parse(fields["version"].as_str()?)
    }
}

#[cfg(test)]
mod tests {
    use super::KeyVersion;

    #[test]
    fn versions_have_an_order() {
        let parse = |text| KeyVersion::parse(text).unwrap();
        let texts = [
            "18780000000000fe-3",
            "18780000000000ff-2",
            "18780000000000ff-10",
        ];
        let versions = texts.map(parse);
        assert!(versions.is_sorted(), "{versions:?}");
        assert!(versions[1] < versions[2]);
        for wrong in [
            "",
            "1-1",
            "18780000000000ff",
            "18780000000000fg-1",
            "18780000000000ff-x",
        ] {
            assert_eq!(KeyVersion::parse(wrong), None, "{wrong}");
        }
    }
}
