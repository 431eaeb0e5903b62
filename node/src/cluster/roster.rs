//! The nodes of the cluster as this one knew them last, in a file beside its data.
//!
//! Nothing reads it while the node runs. When its log can't be read any more, it tells who else may
//! hold what was in it, and so whether the data directory may be given up.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::replace_file;
use crate::meta::{NodeState, Topology};
use crate::raft::NodeId;

const FILE: &str = "nodes.json";

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its number.
    pub id: NodeId,
    /// The name of its region.
    pub region: String,
    /// Where other nodes reach it.
    pub rpc: String,
}

/// The nodes of the cluster, without removed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// In the order of their numbers.
    pub nodes: Vec<Listed>,
}

impl Roster {
    /// Those of a topology.
    pub fn of(topology: &Topology) -> Self {
        let nodes = topology.nodes().iter();
        let there = nodes.filter(|node| node.state != NodeState::Removed);
        let listed = there.map(|node| Listed {
            id: node.id,
            region: topology.region_name(node.region).unwrap_or("?").to_owned(),
            rpc: node.rpc.clone(),
        });
        Self {
            nodes: listed.collect(),
        }
    }

    /// The list kept in `dir`, if there is one that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }

    /// Keeps it in `dir`: blocks.
    pub fn keep(&self, dir: &Path) -> io::Result<()> {
        replace_file(dir, FILE, &serde_json::to_vec_pretty(self)?)
    }
}
