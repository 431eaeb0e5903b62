//! Entity tags: a key's version, as clients see it.
//!
//! The form is `"<time as 16 lower-case hex digits>-<region>"`. Only this exact form is parsed as a
//! version, so tags are equal if and only if their versions are. Tags of another form are legal in
//! a request (a cache in between may hold some); they match nothing.

use http::HeaderValue;

use crate::service::Version;

/// Maximum length of a version's text: 16 digits, a dash and the 10 digits of a region.
const MAX_TEXT_BYTES: usize = 16 + 1 + 10;

/// Text of a version, on the stack; formatted without `format!`, since every read needs it.
struct VersionText {
    bytes: [u8; MAX_TEXT_BYTES + 2],
    end: usize,
}

impl VersionText {
    /// Formats the quoted form.
    fn new(version: Version) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [b'"'; MAX_TEXT_BYTES + 2];
        for (index, byte) in bytes[1..17].iter_mut().enumerate() {
            let nibble = version.time >> (60 - 4 * index) & 0xf;
            *byte = HEX[nibble as usize];
        }
        bytes[17] = b'-';
        let digits = version.region.checked_ilog10().unwrap_or(0) as usize + 1;
        let mut rest = version.region;
        for byte in bytes[18..18 + digits].iter_mut().rev() {
            *byte = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self {
            bytes,
            end: 18 + digits + 1,
        }
    }
}

/// Formats a version as the value of `ETag`.
pub(crate) fn header(version: Version) -> HeaderValue {
    let text = VersionText::new(version);
    HeaderValue::from_bytes(&text.bytes[..text.end])
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Formats a version for listings, without quotes.
pub(crate) fn text(version: Version) -> String {
    let text = VersionText::new(version);
    String::from_utf8_lossy(&text.bytes[1..text.end - 1]).into_owned()
}

/// Parses the text between the quotes; `None` if it isn't the text of a version.
pub(crate) fn parse(opaque: &[u8]) -> Option<Version> {
    let (time, rest) = opaque.split_at_checked(16)?;
    let region = rest.strip_prefix(b"-")?;
    if !time
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let is_canonical = region == b"0" || region.first().is_some_and(|first| *first != b'0');
    if !is_canonical || !region.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let time = u64::from_str_radix(std::str::from_utf8(time).ok()?, 16).ok()?;
    Some(Version {
        time,
        region: std::str::from_utf8(region).ok()?.parse().ok()?,
    })
}

/// An entity tag in a request's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityTag {
    /// True if the tag is marked `W/`.
    pub weak: bool,
    /// Version, if the tag has the form of one.
    pub version: Option<Version>,
}

/// Value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntityTags {
    /// `*`: any version.
    Any,
    /// A list of tags.
    List(Vec<EntityTag>),
}

impl EntityTags {
    /// Parses all lines of the header together; `None` if they are malformed or contain no tag.
    pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut tags = Vec::new();
        let mut any = false;
        for line in lines {
            if line.trim_ascii() == b"*" {
                if any || !tags.is_empty() {
                    return None;
                }
                any = true;
            } else {
                parse_line(line, &mut tags)?;
            }
        }
        match (any, tags.is_empty()) {
            (true, true) => Some(Self::Any),
            (false, false) => Some(Self::List(tags)),
            (true, false) | (false, true) => None,
        }
    }

    /// Returns the versions that a strong comparison can match.
    pub(crate) fn strong_versions(&self) -> impl Iterator<Item = Version> {
        self.list()
            .iter()
            .filter(|tag| !tag.weak)
            .filter_map(|tag| tag.version)
    }

    /// Returns the versions that a weak comparison can match.
    pub(crate) fn weak_versions(&self) -> impl Iterator<Item = Version> {
        self.list().iter().filter_map(|tag| tag.version)
    }

    fn list(&self) -> &[EntityTag] {
        match self {
            Self::Any => &[],
            Self::List(tags) => tags,
        }
    }
}

/// Parses one line of tags; `None` if it is malformed. Empty elements are legal.
fn parse_line(line: &[u8], tags: &mut Vec<EntityTag>) -> Option<()> {
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix(b",") {
            rest = tail.trim_ascii_start();
            continue;
        }
        let (tag, tail) = parse_tag(rest)?;
        tags.push(tag);
        rest = tail.trim_ascii_start();
        if !rest.is_empty() && rest[0] != b',' {
            return None;
        }
    }
    Some(())
}

fn parse_tag(text: &[u8]) -> Option<(EntityTag, &[u8])> {
    let (weak, rest) = match text.strip_prefix(b"W/") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let rest = rest.strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let (opaque, rest) = (&rest[..end], &rest[end + 1..]);
    let is_legal = opaque
        .iter()
        .all(|byte| matches!(byte, 0x21..=0x7e | 0x80..));
    is_legal.then(|| {
        (
            EntityTag {
                weak,
                version: parse(opaque),
            },
            rest,
        )
    })
}

#[cfg(test)]
#[path = "etag_tests.rs"]
mod tests;
