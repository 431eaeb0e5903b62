//! Who this node is: drawn once, when its data directory is made, and kept there.
//!
//! It is written before the cluster is founded and before any shard is: whatever line a crash
//! hits, the next start founds the same cluster with the same shards.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use cloudkv_proto::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

const FILE: &str = "identity.json";

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster, a UUID; empty while no cluster has taken the node in.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// The region it serves.
    pub region: String,
    /// Number of shards of each region, fixed for ever.
    pub shards: u16,
    /// Names the histories of the region's shards.
    pub incarnation: u64,
    /// The region's number.
    #[serde(default = "first_region")]
    pub region_number: u32,
    /// Whether it founded the cluster, and so begins its groups alone.
    #[serde(default = "founded")]
    pub founder: bool,
    /// Whether it is the first node of a region that joined, and so begins its shards alone.
    #[serde(default)]
    pub founds_region: bool,
    /// Whether the shards of its region take over what other regions have before they serve.
    #[serde(default)]
    pub adopts: bool,
}

/// Number of the first region.
pub const FIRST_REGION: u32 = 1;

fn first_region() -> u32 {
    FIRST_REGION
}

fn founded() -> bool {
    true
}

/// What the configuration asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The region.
    pub region: String,
    /// The number of shards; `None`: what is there, or the default.
    pub shards: Option<u16>,
    /// Whether a new node joins a cluster, rather than founding one.
    pub joins: bool,
    /// Whether the data directory holds a node's log: then an identity must be there, too.
    pub has_log: bool,
}

/// Shards of a new cluster, unless it is said.
const DEFAULT_SHARDS: u16 = 3;

/// Why a data directory doesn't fit.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It has another number of shards.
    #[error(
        "--shards is {wanted}, but the data directory holds a cluster of {found}: the number is fixed when a cluster is created; leave --shards out, or export into a new cluster"
    )]
    Shards {
        /// The number asked for.
        wanted: u16,
        /// The number that the cluster has.
        found: u16,
    },
    /// It belongs to a node of another region.
    #[error(
        "--region is `{wanted}`, but the data directory belongs to a node of region `{found}`: start it with that region, or with a --data-dir of its own"
    )]
    Region {
        /// The region asked for.
        wanted: String,
        /// The region of the node.
        found: String,
    },
    /// It holds a node's data, and not which node it is.
    #[error(
        "{FILE} is missing from the data directory, which holds a node's log. Put it back, from a \
         copy of the directory, say: without it the node would take itself for a new one, beside \
         data that it can't read. Only where other nodes hold the same data, remove the directory, \
         start the node with --join, and `cloudkv-node admin replace` the old one; to start \
         another node, give a --data-dir of its own"
    )]
    Missing,
    /// It drew a number, and was taken in nowhere.
    #[error(
        "the data directory belongs to a node that was about to join a cluster: start it with --join, or with another --data-dir"
    )]
    NotJoined,
    /// The cluster that takes it in is another one than was meant.
    #[error("the cluster that takes this node in says nothing of its {0}")]
    BadAnswer(&'static str),
    /// The file can't be read or written.
    #[error("{verb} {FILE} in the data directory")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// The identity kept in `dir`, or a new one that is kept there from now on.
    pub fn open(dir: &Path, wanted: &Wanted) -> Result<Self, IdentityError> {
        let failed = |verb| move |source| IdentityError::Io { verb, source };
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let mut found: Self =
                    serde_json::from_slice(&bytes).map_err(|error| failed("read")(error.into()))?;
                if !found.is_member() && found.region != wanted.region {
                    // No cluster has heard of it: it may have been refused for its region.
                    found.region.clone_from(&wanted.region);
                    found.keep(dir).map_err(failed("write"))?;
                }
                found.check(wanted)?;
                Ok(found)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if wanted.has_log {
                    return Err(IdentityError::Missing);
                }
                let new = if wanted.joins {
                    Self::applicant(wanted)
                } else {
                    Self::draw(wanted)
                };
                let new = new.map_err(failed("draw"))?;
                new.keep(dir).map_err(failed("write"))?;
                Ok(new)
            }
            Err(error) => Err(failed("read")(error)),
        }
    }

    /// The identity kept in `dir`, if there is one that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }

    fn draw(wanted: &Wanted) -> io::Result<Self> {
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random)?;
        let number = |at: usize| {
            random[at..at + 8]
                .iter()
                .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&random[16..]);
        Ok(Self {
            cluster_id: uuid::Builder::from_random_bytes(uuid)
                .into_uuid()
                .to_string(),
            // Small enough for every JSON reader, and never 0.
            node_id: (number(0) >> 12) | 1,
            region: wanted.region.clone(),
            shards: wanted.shards.unwrap_or(DEFAULT_SHARDS),
            incarnation: number(8) | 1,
            region_number: FIRST_REGION,
            founder: true,
            founds_region: false,
            adopts: false,
        })
    }

    /// One that has only its number until a cluster takes it in.
    fn applicant(wanted: &Wanted) -> io::Result<Self> {
        Ok(Self {
            cluster_id: String::new(),
            shards: 0,
            incarnation: 0,
            region_number: 0,
            founder: false,
            ..Self::draw(wanted)?
        })
    }

    /// Whether it belongs to a cluster.
    pub fn is_member(&self) -> bool {
        !self.cluster_id.is_empty()
    }

    /// A cluster has taken the node in: kept in `dir` from now on.
    pub fn joined(&mut self, dir: &Path, answer: pb::JoinResponse) -> Result<(), IdentityError> {
        let shards = u16::try_from(answer.shards)
            .ok()
            .filter(|shards| *shards > 0);
        let incarnation = Some(answer.incarnation).filter(|incarnation| *incarnation != 0);
        let cluster_id = Some(answer.cluster_id).filter(|id| !id.is_empty());
        *self = Self {
            cluster_id: cluster_id.ok_or(IdentityError::BadAnswer("name"))?,
            shards: shards.ok_or(IdentityError::BadAnswer("shards"))?,
            incarnation: incarnation.ok_or(IdentityError::BadAnswer("incarnation"))?,
            region_number: answer.region,
            founds_region: answer.founds_region,
            adopts: answer.adopts,
            ..self.clone()
        };
        self.keep(dir).map_err(|source| IdentityError::Io {
            verb: "write",
            source,
        })
    }

    fn check(&self, wanted: &Wanted) -> Result<(), IdentityError> {
        if !self.is_member() && !wanted.joins {
            return Err(IdentityError::NotJoined);
        }
        let other = |shards: &u16| self.is_member() && *shards != self.shards;
        if let Some(shards) = wanted.shards.filter(other) {
            return Err(IdentityError::Shards {
                wanted: shards,
                found: self.shards,
            });
        }
        if wanted.region != self.region {
            let (wanted, found) = (wanted.region.clone(), self.region.clone());
            return Err(IdentityError::Region { wanted, found });
        }
        Ok(())
    }

    /// Durable when this returns: the file whole, or none.
    fn keep(&self, dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        replace_file(dir, FILE, &bytes)
    }
}

/// Replaces a file in one step: a reader, or a crash, sees the old one or the new one, whole.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(region: &str, shards: Option<u16>) -> Wanted {
        Wanted {
            region: region.into(),
            shards,
            joins: false,
            has_log: false,
        }
    }

    #[test]
    fn an_identity_is_drawn_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), &wanted("eu", Some(4))).unwrap();
        let again = Identity::open(dir.path(), &wanted("eu", None)).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.shards, 4);
        let other = tempfile::tempdir().unwrap();
        let second = Identity::open(other.path(), &wanted("eu", None)).unwrap();
        assert_ne!(first.node_id, second.node_id);
        assert_ne!(first.cluster_id, second.cluster_id);
        assert_eq!(second.shards, DEFAULT_SHARDS);
    }

    #[test]
    fn another_number_of_shards_or_region_is_refused_with_both() {
        let dir = tempfile::tempdir().unwrap();
        Identity::open(dir.path(), &wanted("eu", Some(4))).unwrap();
        let shards = Identity::open(dir.path(), &wanted("eu", Some(8)))
            .unwrap_err()
            .to_string();
        assert!(shards.contains('4') && shards.contains('8'), "{shards}");
        let region = Identity::open(dir.path(), &wanted("us", None))
            .unwrap_err()
            .to_string();
        assert!(region.contains("eu") && region.contains("us"), "{region}");
    }

    #[test]
    fn a_node_that_joins_keeps_its_number_until_it_is_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let joins = Wanted {
            joins: true,
            ..wanted("eu", None)
        };
        let first = Identity::open(dir.path(), &joins).unwrap();
        assert!(!first.is_member() && !first.founder);
        let again = Identity::open(dir.path(), &joins).unwrap();
        assert_eq!(first, again);
        // It was refused, and is given another region.
        let elsewhere = Wanted {
            region: "us".into(),
            ..joins
        };
        let mut again = Identity::open(dir.path(), &elsewhere).unwrap();
        assert_eq!(
            (again.node_id, again.region.as_str()),
            (first.node_id, "us")
        );
        assert!(matches!(
            Identity::open(dir.path(), &wanted("us", None)),
            Err(IdentityError::NotJoined)
        ));
        let answer = pb::JoinResponse {
            cluster_id: "c".into(),
            shards: 4,
            region: 1,
            incarnation: 9,
            nodes: vec![],
            ..Default::default()
        };
        again.joined(dir.path(), answer).unwrap();
        let member = Identity::open(dir.path(), &wanted("us", None)).unwrap();
        assert_eq!(member, again);
        assert_eq!((member.node_id, member.shards), (first.node_id, 4));
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            has_log: true,
            ..wanted("eu", None)
        };
        assert!(matches!(
            Identity::open(dir.path(), &wanted),
            Err(IdentityError::Missing)
        ));
        assert_eq!(Identity::read(dir.path()), None);
        Identity::draw(&wanted).unwrap().keep(dir.path()).unwrap();
        let kept = Identity::open(dir.path(), &wanted).unwrap();
        assert_eq!(Identity::read(dir.path()), Some(kept));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(
            Identity::open(dir.path(), &wanted("eu", None)),
            Err(IdentityError::Io { .. })
        ));
    }
}
