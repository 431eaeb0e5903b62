//! Stores the nodes of the cluster, as this one last knew them, in a file beside its data.
//!
//! The file isn't read while the node runs. If its log can't be read any more, the file shows which
//! other nodes may have the data, and so whether the data directory may be discarded.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::replace_file;
use crate::meta::{NodeState, Topology};
use crate::raft::NodeId;

const NODE_LIST_FILE: &str = "nodes.json";

/// Node in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedNode {
    /// ID of the node.
    pub id: NodeId,
    /// Name of its region.
    pub region: String,
    /// Address at which other nodes reach it.
    pub rpc: String,
}

/// Nodes of the cluster, without removed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeList {
    /// Nodes in the order of their IDs.
    pub nodes: Vec<ListedNode>,
}

impl NodeList {
    /// Lists the nodes of a topology.
    pub(crate) fn from_topology(topology: &Topology) -> Self {
        let nodes = topology.nodes().iter();
        let members = nodes.filter(|node| node.state != NodeState::Removed);
        let list = members.map(|node| ListedNode {
            id: node.id,
            region: topology.region_name(node.region).unwrap_or("?").to_owned(),
            rpc: node.rpc.clone(),
        });
        Self {
            nodes: list.collect(),
        }
    }

    /// Reads the list in `dir`; `None` if there is none that can be read.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(NODE_LIST_FILE)).ok()?).ok()
    }

    /// Stores the list in `dir`; blocks.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        replace_file(dir, NODE_LIST_FILE, &serde_json::to_vec_pretty(self)?)
    }
}
