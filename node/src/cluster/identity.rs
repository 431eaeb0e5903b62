//! Identity of this node: drawn once, when its data directory is created, and stored there.
//!
//! It is written before the cluster or any shard is bootstrapped: wherever a crash interrupts that,
//! the next start bootstraps the same cluster with the same shards.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cloudkv_proto::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

const FILE: &str = "identity.json";

/// Format of the data directory that this version writes, and the only one that it reads. Previews
/// wrote none.
const FORMAT: u32 = 1;

/// Identity of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the whole data directory; 0 in those of previews.
    #[serde(default)]
    pub format: u32,
    /// ID of the cluster, a UUID; empty until a cluster has admitted the node.
    pub cluster_id: String,
    /// ID of the node.
    pub node_id: NodeId,
    /// Region that the node serves.
    pub region: String,
    /// Number of shards of each region, fixed for ever.
    pub shards: u16,
    /// Incarnation of the region: identifies the history of its shards.
    pub incarnation: u64,
    /// Number of the region.
    #[serde(default = "first_region")]
    pub region_number: u32,
    /// True if the node bootstrapped the cluster, and so starts its groups as the only member.
    #[serde(default = "default_true", rename = "founder")]
    pub bootstraps_cluster: bool,
    /// True for the first node of a region that joined, which starts its shards as the only member.
    #[serde(default, rename = "founds_region")]
    pub bootstraps_region: bool,
    /// True if the region's shards are seeded from other regions before they serve.
    #[serde(default, rename = "adopts")]
    pub is_seeded: bool,
}

/// The part of the file that all versions can read.
#[derive(Deserialize)]
struct StoredFormat {
    #[serde(default)]
    format: u32,
}

/// Number of a cluster's first region.
pub(super) const FIRST_REGION: u32 = 1;

fn first_region() -> u32 {
    FIRST_REGION
}

fn default_true() -> bool {
    true
}

/// Identity that the configuration asks for.
#[derive(Clone, Debug)]
pub struct RequestedIdentity {
    /// Region of the node.
    pub region: String,
    /// Number of shards; `None` for the stored number, or the default.
    pub shards: Option<u16>,
    /// True if a new node joins a cluster instead of bootstrapping one.
    pub is_joining: bool,
    /// True if the data directory holds a node's log: then an identity must exist, too.
    pub has_log: bool,
}

/// Default number of shards of a new cluster.
const DEFAULT_SHARDS: u16 = 3;

/// Reason why a data directory can't be used with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The data directory is that of a preview.
    #[error(
        "the data directory {} was written by a preview of cloudkv-node, which this version can't \
         read: start with an empty one",
        .0.display()
    )]
    PreviewFormat(PathBuf),
    /// The data directory is that of a later version.
    #[error(
        "the data directory {} was written by a later version of cloudkv-node (its format is \
         {format}, and this version reads {FORMAT}): start that version",
        .dir.display()
    )]
    LaterFormat {
        /// The directory.
        dir: PathBuf,
        /// Version of the directory's format.
        format: u32,
    },
    /// The cluster has another number of shards.
    #[error(
        "--shards is {wanted}, but the data directory holds a cluster of {found}: the number is \
         fixed when a cluster is created; leave --shards out, or create another cluster in an \
         empty --data-dir"
    )]
    ShardCountMismatch {
        /// The configured number.
        wanted: u16,
        /// The cluster's number.
        found: u16,
    },
    /// The data directory belongs to a node of another region.
    #[error(
        "--region is `{wanted}`, but the data directory belongs to a node of region `{found}`: \
         start it with that region, or with a --data-dir of its own"
    )]
    RegionMismatch {
        /// The configured region.
        wanted: String,
        /// The node's region.
        found: String,
    },
    /// The data directory holds a node's log, but not its identity.
    #[error(
        "{FILE} is missing from the data directory, which holds a node's log. Put it back, from a \
         copy of the directory, say: without it the node would take itself for a new one, beside \
         data that it can't read. Only where other nodes hold the same data, remove the directory, \
         start the node with --join, and `cloudkv-node admin replace` the old one; to start \
         another node, give a --data-dir of its own"
    )]
    MissingFile,
    /// The node has drawn its ID, but no cluster has admitted it.
    #[error(
        "the data directory belongs to a node that was about to join a cluster: start it with \
         --join, or with another --data-dir"
    )]
    NotJoined,
    /// The response of the cluster that admits the node is incomplete.
    #[error("join the cluster: its response lacks the {0}")]
    BadJoinResponse(&'static str),
    /// The identity file can't be read or written.
    #[error("{verb} {FILE} in the data directory")]
    Io {
        /// The failed action.
        verb: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// Reads the identity in `dir`, or creates one there.
    pub fn open(dir: &Path, wanted: &RequestedIdentity) -> Result<Self, IdentityError> {
        let failed = |verb| move |source| IdentityError::Io { verb, source };
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let mut stored = Self::parse(dir, &bytes)?;
                if !stored.is_member() && stored.region != wanted.region {
                    // No cluster knows it: it may have been refused because of its region.
                    stored.region.clone_from(&wanted.region);
                    stored.save(dir).map_err(failed("write"))?;
                }
                stored.check_requested(wanted)?;
                Ok(stored)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if wanted.has_log {
                    return Err(IdentityError::MissingFile);
                }
                let new = if wanted.is_joining {
                    Self::unjoined(wanted)
                } else {
                    Self::generate(wanted)
                };
                let new = new.map_err(failed("draw"))?;
                new.save(dir).map_err(failed("write"))?;
                Ok(new)
            }
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// Reads the identity in `dir`; `None` if there is none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        Self::parse(dir, &fs::read(dir.join(FILE)).ok()?).ok()
    }

    /// Refuses a data directory of another format, before anything in it is opened. A file that
    /// can't be read is left to [`Identity::open`].
    pub fn check_format(dir: &Path) -> Result<(), IdentityError> {
        let stored = fs::read(dir.join(FILE)).ok();
        match stored.and_then(|bytes| serde_json::from_slice::<StoredFormat>(&bytes).ok()) {
            Some(stored) => stored.check(dir),
            None => Ok(()),
        }
    }

    /// Parses the file of `dir`: its format first, on which the rest depends.
    fn parse(dir: &Path, bytes: &[u8]) -> Result<Self, IdentityError> {
        let failed = |error: serde_json::Error| IdentityError::Io {
            verb: "read",
            source: error.into(),
        };
        let stored: StoredFormat = serde_json::from_slice(bytes).map_err(failed)?;
        stored.check(dir)?;
        serde_json::from_slice(bytes).map_err(failed)
    }

    fn generate(wanted: &RequestedIdentity) -> io::Result<Self> {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random)?;
        let random_u64 = |at: usize| {
            random[at..at + 8]
                .iter()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&random[16..]);
        Ok(Self {
            format: FORMAT,
            cluster_id: uuid::Builder::from_random_bytes(uuid)
                .into_uuid()
                .to_string(),
            // Small enough for every JSON reader, and never 0.
            node_id: NodeId::from((random_u64(0) >> 12) | 1),
            region: wanted.region.clone(),
            shards: wanted.shards.unwrap_or(DEFAULT_SHARDS),
            incarnation: random_u64(8) | 1,
            region_number: FIRST_REGION,
            bootstraps_cluster: true,
            bootstraps_region: false,
            is_seeded: false,
        })
    }

    /// Creates an identity with nothing but a node ID, until a cluster admits the node.
    fn unjoined(wanted: &RequestedIdentity) -> io::Result<Self> {
        Ok(Self {
            cluster_id: String::new(),
            shards: 0,
            incarnation: 0,
            region_number: 0,
            bootstraps_cluster: false,
            ..Self::generate(wanted)?
        })
    }

    /// Returns whether the node belongs to a cluster.
    pub fn is_member(&self) -> bool {
        !self.cluster_id.is_empty()
    }

    /// Stores the identity in `dir` after a cluster has admitted the node.
    pub fn accept_join(
        &mut self,
        dir: &Path,
        response: pb::JoinResponse,
    ) -> Result<(), IdentityError> {
        let shards = u16::try_from(response.shards)
            .ok()
            .filter(|shards| *shards > 0);
        let incarnation = Some(response.incarnation).filter(|incarnation| *incarnation != 0);
        let cluster_id = Some(response.cluster_id).filter(|id| !id.is_empty());
        *self = Self {
            cluster_id: cluster_id.ok_or(IdentityError::BadJoinResponse("cluster ID"))?,
            shards: shards.ok_or(IdentityError::BadJoinResponse("number of shards"))?,
            incarnation: incarnation.ok_or(IdentityError::BadJoinResponse("incarnation"))?,
            region_number: response.region,
            bootstraps_region: response.bootstraps_region,
            is_seeded: response.must_seed,
            ..self.clone()
        };
        self.save(dir).map_err(|source| IdentityError::Io {
            verb: "write",
            source,
        })
    }

    fn check_requested(&self, wanted: &RequestedIdentity) -> Result<(), IdentityError> {
        if !self.is_member() && !wanted.is_joining {
            return Err(IdentityError::NotJoined);
        }
        let is_other = |shards: &u16| self.is_member() && *shards != self.shards;
        if let Some(shards) = wanted.shards.filter(is_other) {
            return Err(IdentityError::ShardCountMismatch {
                wanted: shards,
                found: self.shards,
            });
        }
        if wanted.region != self.region {
            let (wanted, found) = (wanted.region.clone(), self.region.clone());
            return Err(IdentityError::RegionMismatch { wanted, found });
        }
        Ok(())
    }

    /// Stores the identity durably and atomically.
    fn save(&self, dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        replace_file(dir, FILE, &bytes)
    }
}

impl StoredFormat {
    fn check(&self, dir: &Path) -> Result<(), IdentityError> {
        let dir = dir.to_owned();
        match self.format {
            FORMAT => Ok(()),
            0 => Err(IdentityError::PreviewFormat(dir)),
            format => Err(IdentityError::LaterFormat { dir, format }),
        }
    }
}

/// Replaces a file atomically and durably: a reader, or a crash, sees the old or the new content.
pub(crate) fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
