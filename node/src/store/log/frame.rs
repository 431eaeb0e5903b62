//! Encoding of a record of the log.
//!
//! ```text
//! sum u64 | length u32 | previous u64 | kind u8 | group u16 | body      (numbers big-endian)
//! ```
//!
//! `sum` is the XXH3 of all bytes after it, `length` the length of the body, and `previous` the sum
//! of the record before. So a record is valid only after the one that it was written after: bytes
//! left further on by an earlier use of the file, or by a write that a crash interrupted, are never
//! taken for a part of the log, wherever they happen to lie.

use xxhash_rust::xxh3::xxh3_64;

use crate::store::keys::GroupId;

/// Length of a record without its body, in bytes.
pub(super) const HEADER_BYTES: usize = 23;
/// Length of an entry's record before the entry, in bytes: the record's header, and the index.
pub(super) const ENTRY_HEADER_BYTES: usize = HEADER_BYTES + size_of::<u64>();

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FrameKind {
    /// First record of a segment: format u32, its number u64, the oldest segment u64.
    SegmentBegin = 1,
    /// Last record of a segment: the log continues in the next one.
    SegmentEnd = 2,
    /// Entry: index u64, entry. It truncates the log at its index, and is then the last entry.
    Entry = 3,
    /// Entry relocated from an old segment: index u64, entry.
    Relocated = 4,
    /// Last vote: its bytes.
    Vote = 5,
    /// Last stored committed position: its bytes.
    Committed = 6,
    /// Purge of the entries up to an index: index u64, position.
    Purge = 7,
    /// Truncation of the entries from an index on: index u64.
    Truncate = 8,
    /// Release of older segments, which are no longer part of the log: the oldest segment u64.
    Release = 9,
}

impl FrameKind {
    fn parse(byte: u8) -> Option<Self> {
        [
            Self::SegmentBegin,
            Self::SegmentEnd,
            Self::Entry,
            Self::Relocated,
            Self::Vote,
            Self::Committed,
            Self::Purge,
            Self::Truncate,
            Self::Release,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Checksum of a record, which the next one names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum(pub u64);

/// Decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Kind of the record; `None` if this version doesn't know it.
    pub kind: Option<FrameKind>,
    /// Group that the record belongs to.
    pub group: GroupId,
    /// Contents of the record.
    pub body: &'a [u8],
    /// Checksum of the record.
    pub checksum: Checksum,
    /// Checksum of the record before.
    pub previous: Checksum,
}

impl Frame<'_> {
    /// Returns the length of the record, including its header.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Splits the body into the number at its beginning and the rest.
    pub(super) fn split_number(&self) -> Option<(u64, &[u8])> {
        let (number, rest) = self.body.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*number), rest))
    }
}

/// Writes a record after the one with the checksum `previous`. Returns the new checksum.
pub(super) fn write(
    out: &mut Vec<u8>,
    previous: Checksum,
    kind: FrameKind,
    group: GroupId,
    body: impl FnOnce(&mut Vec<u8>),
) -> Checksum {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    body(out);
    let length = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
    let header = &mut out[start..];
    header[8..12].copy_from_slice(&length.to_be_bytes());
    header[12..20].copy_from_slice(&previous.0.to_be_bytes());
    header[20] = kind as u8;
    header[21..23].copy_from_slice(&group.0.to_be_bytes());
    let sum = xxh3_64(&header[8..]);
    header[..8].copy_from_slice(&sum.to_be_bytes());
    Checksum(sum)
}

/// Reads the record at the beginning of `bytes`, if there is a valid one.
pub(super) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let (sum, rest) = bytes.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let summed = rest.get(..(HEADER_BYTES - 8).checked_add(length)?)?;
    let sum = u64::from_be_bytes(*sum);
    if xxh3_64(summed) != sum {
        return None;
    }
    let (previous, rest) = summed[4..].split_first_chunk::<8>()?;
    let (&[kind, high, low], body) = rest.split_first_chunk::<3>()?;
    Some(Frame {
        kind: FrameKind::parse(kind),
        group: GroupId(u16::from_be_bytes([high, low])),
        body,
        checksum: Checksum(sum),
        previous: Checksum(u64::from_be_bytes(*previous)),
    })
}

/// Reads the record at the beginning of `bytes`, if it was written after the one with this
/// checksum.
pub(super) fn read_after(bytes: &[u8], link: Checksum) -> Option<Frame<'_>> {
    read(bytes).filter(|frame| frame.previous == link)
}

/// Returns the length by the header at the beginning of `bytes`, if that is the header of a record
/// after the one with this checksum; the record itself may be damaged.
pub(super) fn length_after(bytes: &[u8], link: Checksum) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    let (_, rest) = header.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (previous, rest) = rest.split_first_chunk::<8>()?;
    FrameKind::parse(*rest.first()?)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (u64::from_be_bytes(*previous) == link.0).then_some(HEADER_BYTES.saturating_add(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(link: Checksum, body: &[u8]) -> (Vec<u8>, Checksum) {
        let mut bytes = Vec::new();
        let write_body = |out: &mut Vec<u8>| out.extend_from_slice(body);
        let link = write(&mut bytes, link, FrameKind::Entry, GroupId(7), write_body);
        (bytes, link)
    }

    proptest! {
        #[test]
        fn records_round_trip(body: Vec<u8>, previous: u64, rest: Vec<u8>) {
            let (mut bytes, link) = record(Checksum(previous), &body);
            bytes.extend_from_slice(&rest);
            let frame = read_after(&bytes, Checksum(previous)).unwrap();
            prop_assert_eq!(frame.kind, Some(FrameKind::Entry));
            prop_assert_eq!(frame.group, GroupId(7));
            prop_assert_eq!(frame.body, &body[..]);
            prop_assert_eq!(frame.checksum, link);
            prop_assert_eq!(frame.len() + rest.len(), bytes.len());
        }

        #[test]
        fn a_changed_or_truncated_record_is_invalid(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            at: proptest::sample::Index,
            change in 1..=u8::MAX,
        ) {
            let (bytes, _) = record(Checksum(1), &body);
            let at = at.index(bytes.len());
            prop_assert_eq!(read(&bytes[..at]), None);
            let mut changed = bytes.clone();
            changed[at] ^= change;
            prop_assert_eq!(read(&changed), None);
        }
    }

    #[test]
    fn a_record_is_valid_only_after_its_own_predecessor() {
        let (bytes, link) = record(Checksum(5), b"x");
        assert!(read_after(&bytes, Checksum(5)).is_some());
        assert!(read_after(&bytes, Checksum(6)).is_none());
        let (next, _) = record(link, b"y");
        assert!(read_after(&next, link).is_some());
    }

    #[test]
    fn zeros_are_not_a_record() {
        assert_eq!(read(&[0; 4096]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_record_of_a_later_version_is_valid_with_an_unknown_kind() {
        let (mut bytes, _) = record(Checksum(5), b"x");
        bytes[20] = 200;
        let sum = xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&bytes).unwrap().kind, None);
    }
}
