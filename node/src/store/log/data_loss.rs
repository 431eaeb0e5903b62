//! Classifies synced records that recovery can't read: explained by a power failure, or not.
//!
//! The last block of the log is written again with each sync until it is full. A torn write changes
//! no earlier bytes on disks that write sectors atomically; on others it can damage that block, and
//! no other. So damage further back is the disk's fault.

use std::path::PathBuf;

use super::frame::{self, HEADER_BYTES};
use super::index::LogPosition;
use super::segment::BLOCK_BYTES;
use super::tail::LogEnd;
use crate::store::error::{LogDataLoss, LossExtent};

/// Classifies the loss of a log whose readable records end at `end`, and which was synced up to
/// `synced`. `rest` is the bytes after `end` in its file.
pub(super) fn classify(
    end: Option<LogEnd>,
    file: Option<PathBuf>,
    rest: &[u8],
    synced: LogPosition,
) -> LogDataLoss {
    let extent = match end {
        Some(end) if end.at.segment() == synced.segment() => {
            let bytes = synced.offset().saturating_sub(end.at.offset());
            if is_in_last_block(end, rest, synced) {
                LossExtent::TornTail { bytes }
            } else {
                LossExtent::LastFile { bytes }
            }
        }
        // The next file had just been started.
        Some(end) if end.is_full && is_in_first_block(end, synced) => LossExtent::TornTail {
            bytes: synced.offset(),
        },
        Some(_) | None => LossExtent::OlderFile,
    };
    let end = end.map(|end| end.at.offset());
    let end = file.zip(end);
    LogDataLoss { extent, end }
}

/// Returns whether the first unreadable record extends into the last block that was synced.
fn is_in_last_block(end: LogEnd, rest: &[u8], synced: LogPosition) -> bool {
    let block = synced.offset() - synced.offset() % BLOCK_BYTES as u64;
    let begin = end.at.offset();
    if begin >= block {
        return true;
    }
    // The header lies further back: if it is valid, the body may be damaged in the last block.
    let is_header_before = begin + HEADER_BYTES as u64 <= block;
    let length = frame::length_after(rest, end.checksum).filter(|_| is_header_before);
    length.map_or(!is_header_before, |length| {
        let record_end = begin + length as u64;
        record_end > block && record_end <= synced.offset()
    })
}

/// Returns whether `synced` lies in the first block of the file after the one that ends at `end`.
fn is_in_first_block(end: LogEnd, synced: LogPosition) -> bool {
    synced.segment() == end.at.segment() + 1 && synced.offset() < BLOCK_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Checksum, FrameKind};
    use super::*;
    use crate::store::keys::GroupId;

    const FIRST_CHECKSUM: Checksum = Checksum(7);

    /// Encodes a record of this size after one with the checksum `FIRST_CHECKSUM`.
    fn record(bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write(
            &mut out,
            FIRST_CHECKSUM,
            FrameKind::Entry,
            GroupId(1),
            |out| {
                out.resize(out.len() + bytes - HEADER_BYTES, 9);
            },
        );
        out
    }

    /// Classifies a log that ends at an offset of segment 3, before a record whose last byte is
    /// damaged.
    fn classified(end: u64, mut rest: Vec<u8>, synced: (u64, u64)) -> LossExtent {
        let last = rest.len() - 1;
        rest[last] ^= 1;
        let end = LogEnd {
            at: LogPosition::new(3, end),
            checksum: FIRST_CHECKSUM,
            is_full: false,
        };
        let synced = LogPosition::new(synced.0, synced.1);
        classify(Some(end), None, &rest, synced).extent
    }

    #[test]
    fn damage_in_the_last_block_may_be_a_torn_write() {
        let torn = |bytes| LossExtent::TornTail { bytes };
        assert_eq!(classified(8192, record(100), (3, 8292)), torn(100));
        assert_eq!(classified(8300, record(100), (3, 9000)), torn(700));
        // The record begins before that block, and extends into it.
        assert_eq!(classified(8000, record(300), (3, 8300)), torn(300));
        assert_eq!(classified(8180, record(300), (3, 8480)), torn(300));
    }

    #[test]
    fn damage_further_back_is_no_torn_write() {
        let last_file = |bytes| LossExtent::LastFile { bytes };
        assert_eq!(classified(4000, record(100), (3, 8300)), last_file(4300));
        assert_eq!(classified(8000, record(192), (3, 8300)), last_file(300));
        // The length isn't trustworthy.
        let mut without_header = record(300);
        without_header[14] ^= 1;
        assert_eq!(classified(8000, without_header, (3, 8300)), last_file(300));
        // The block was full, and isn't written again.
        assert_eq!(classified(8000, record(192), (3, 8192)), last_file(192));
        assert_eq!(
            classified(8000, record(192), (4, 100)),
            LossExtent::OlderFile
        );
    }

    #[test]
    fn the_first_block_of_a_new_file_may_be_torn_too() {
        let full = LogEnd {
            at: LogPosition::new(3, 70_000),
            checksum: FIRST_CHECKSUM,
            is_full: true,
        };
        let judged = |synced| classify(Some(full), None, &[], synced).extent;
        let torn = LossExtent::TornTail { bytes: 900 };
        assert_eq!(judged(LogPosition::new(4, 900)), torn);
        assert_eq!(judged(LogPosition::new(4, 9000)), LossExtent::OlderFile);
        assert_eq!(judged(LogPosition::new(5, 900)), LossExtent::OlderFile);
        let none = classify(None, None, &[], LogPosition::new(1, 900));
        assert_eq!(none.extent, LossExtent::OlderFile);
    }
}
