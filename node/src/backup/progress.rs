//! Lines that tell the progress of a backup that is being made.

use serde::{Deserialize, Serialize};

/// A line: JSON, told apart by its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum BackupLine {
    /// Last line of a backup that is complete.
    End {
        /// True.
        end: bool,
        /// ID of the backup.
        id: String,
        /// Number of records of all shards.
        records: u64,
        /// Compressed size of all parts.
        bytes: u64,
        /// Duration of this call.
        seconds: f64,
    },
    /// Last line of a backup that was interrupted.
    Failed {
        /// Stable code of the error.
        error: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// First line.
    Begin {
        /// ID of the backup.
        id: String,
        /// True if it goes on with one that was interrupted.
        resumed: bool,
        /// Number of shards that it has already.
        kept_shards: u16,
        /// Number of shards of the region.
        shards: u16,
    },
    /// Progress, at most one a second.
    Progress {
        /// Shard that is being read; the number of shards at the metadata.
        shard: u16,
        /// Number of shards of the region.
        shards: u16,
        /// Records that this call has read so far.
        records: u64,
        /// Compressed bytes that it has written so far.
        bytes: u64,
        /// Seconds since it began.
        seconds: f64,
    },
}

impl BackupLine {
    /// Encodes the line, with its newline.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Nothing in it can fail to be encoded; an empty line is none to a reader.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_by_their_fields() {
        let lines = [
            BackupLine::Begin {
                id: "20261201T034500Z".to_owned(),
                resumed: true,
                kept_shards: 1,
                shards: 8,
            },
            BackupLine::Progress {
                shard: 2,
                shards: 8,
                records: 3,
                bytes: 4,
                seconds: 0.5,
            },
            BackupLine::End {
                end: true,
                id: "20261201T034500Z".to_owned(),
                records: 3,
                bytes: 4,
                seconds: 0.5,
            },
            BackupLine::Failed {
                error: "unavailable".to_owned(),
                message: "try again".to_owned(),
            },
        ];
        for line in lines {
            let json = line.encode();
            let parsed: BackupLine = serde_json::from_slice(&json).unwrap();
            assert_eq!(parsed, line, "{}", String::from_utf8_lossy(&json));
        }
    }
}
