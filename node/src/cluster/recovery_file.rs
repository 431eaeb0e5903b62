//! Recovery by force that the next start of a node is to carry out.
//!
//! A running node writes the file when an operator has confirmed the recovery, and stops. The next
//! start carries it out before any group runs, and removes the file as its last step: wherever a
//! crash interrupts that, the start after it begins again.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::replace_file;
use crate::raft::NodeId;

/// Name of the file in the data directory.
pub(crate) const RECOVERY_FILE: &str = "recovery.json";

/// Recovery that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingRecovery {
    /// Node whose directory this is: the file is refused elsewhere.
    pub node: NodeId,
    /// What is recovered.
    pub step: RecoveryStep,
    /// Nodes that were declared lost for good.
    pub lost: Vec<NodeId>,
}

/// What is recovered, and how far a recovery of several steps has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecoveryStep {
    /// The metadata: this node becomes its only voter.
    Metadata,
    /// Shards of a cluster with one region: this node becomes their only voter.
    Shards {
        /// Numbers of the shards.
        shards: Vec<u16>,
    },
    /// The region leaves, and joins the other regions anew: 1. what only this node has is to be
    /// exported.
    RegionExport {
        /// Name of the region.
        region: String,
        /// Addresses of nodes of the other regions.
        join: Vec<String>,
    },
    /// 2. It joins anew with an empty state.
    RegionJoin {
        /// Name of the region.
        region: String,
        /// Addresses of nodes of the other regions.
        join: Vec<String>,
    },
    /// 3. What was exported is to be imported.
    RegionImport {
        /// Name of the region.
        region: String,
    },
}

/// Stores the pending recovery in `dir`, durably and atomically. Blocks.
pub(crate) fn write(dir: &Path, pending: &PendingRecovery) -> io::Result<()> {
    replace_file(dir, RECOVERY_FILE, &serde_json::to_vec_pretty(pending)?)
}

/// Reads the pending recovery in `dir`; `None` if there is none. A file that can't be parsed is an
/// error: what it asks for must not be forgotten. Blocks.
pub(crate) fn read(dir: &Path) -> io::Result<Option<PendingRecovery>> {
    let bytes = match fs::read(dir.join(RECOVERY_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let pending = serde_json::from_slice(&bytes);
    pending
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Removes the pending recovery from `dir`, durably, if there is one. Blocks.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(RECOVERY_FILE)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(step: RecoveryStep) -> PendingRecovery {
        PendingRecovery {
            node: NodeId::from(1),
            step,
            lost: vec![NodeId::from(2), NodeId::from(3)],
        }
    }

    #[test]
    fn each_step_is_read_as_it_was_written_and_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(read(dir).unwrap(), None);
        let (region, join) = ("us".to_owned(), vec!["eu-1:7070".to_owned()]);
        let steps = [
            RecoveryStep::Metadata,
            RecoveryStep::Shards { shards: vec![0, 7] },
            RecoveryStep::RegionExport {
                region: region.clone(),
                join: join.clone(),
            },
            RecoveryStep::RegionJoin {
                region: region.clone(),
                join,
            },
            RecoveryStep::RegionImport { region },
        ];
        for step in steps {
            write(dir, &pending(step.clone())).unwrap();
            assert_eq!(read(dir).unwrap(), Some(pending(step)));
        }
        remove(dir).unwrap();
        assert_eq!(read(dir).unwrap(), None);
        remove(dir).unwrap();
    }

    #[test]
    fn the_stored_form_stays() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"node": 1, "step": {"shards": {"shards": [2]}}, "lost": [2, 3]}"#;
        fs::write(dir.path().join(RECOVERY_FILE), text).unwrap();
        let step = RecoveryStep::Shards { shards: vec![2] };
        assert_eq!(read(dir.path()).unwrap(), Some(pending(step)));
    }

    #[test]
    fn a_file_that_cannot_be_parsed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RECOVERY_FILE), "{\"node\": 1").unwrap();
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
