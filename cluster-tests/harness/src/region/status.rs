//! The response of a node's `GET /status` on its admin port.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// ID of a node: a new one for each data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    /// Accepts a number or a string.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }))
    }
}

/// A node's view of itself, its groups and the other nodes.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// ID of the node.
    pub node: NodeId,
    /// Region of the node.
    pub region: String,
    /// True if its clock is close to those of the others.
    pub clock_ok: bool,
    /// Failures that its region survives, in words.
    #[serde(default)]
    pub survives: String,
    /// Raft groups of which it is a member.
    pub groups: Vec<GroupStatus>,
    /// All nodes that it knows, itself included.
    #[serde(default)]
    pub nodes: Vec<PeerStatus>,
    /// Snapshot transfers to it and from it, under way and the last ones.
    #[serde(default)]
    pub snapshots: Vec<SnapshotTransferStatus>,
}

impl NodeStatus {
    /// Returns one of the node's groups.
    pub fn group(&self, name: &str) -> Option<&GroupStatus> {
        self.groups.iter().find(|group| group.group == name)
    }

    /// Returns the groups that the node leads.
    pub fn led_groups(&self) -> impl Iterator<Item = &GroupStatus> {
        self.groups.iter().filter(|group| group.is_leader())
    }
}

/// A node's replica of a Raft group.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupStatus {
    /// `meta`, or `shard-` and its number.
    pub group: String,
    /// Term of the replica.
    pub term: u64,
    /// Leader of this term, as far as the replica knows.
    pub leader: Option<NodeId>,
    /// `leader`, `follower`, `learner` or `candidate`.
    pub role: String,
    /// True if it serves requests.
    #[serde(default)]
    pub serving: bool,
    /// True if this node's state is damaged on its disk.
    #[serde(default)]
    pub damaged: bool,
    /// Last entry of its log.
    #[serde(default)]
    pub last_log: u64,
    /// Last applied entry.
    #[serde(default)]
    pub applied: u64,
    /// Last entry that was purged from its log.
    #[serde(default)]
    pub purged: u64,
    /// Digest of its state, equal on all replicas at the same applied entry.
    #[serde(default)]
    pub digest: String,
    /// Members that vote.
    #[serde(default)]
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    #[serde(default)]
    pub learners: Vec<NodeId>,
    /// True while members are being changed: members that are removed are needed until that is
    /// over.
    pub changing: bool,
}

impl GroupStatus {
    /// Returns whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.role == "leader"
    }

    /// Returns whether it is a shard, and not the metadata.
    pub fn is_shard(&self) -> bool {
        self.group.starts_with("shard-")
    }
}

/// A snapshot transfer between two nodes, under way or the last one.
#[derive(Clone, Debug, Deserialize)]
pub struct SnapshotTransferStatus {
    /// Group of the snapshot.
    pub group: String,
    /// `sent` or `received`.
    pub direction: String,
    /// The other node.
    pub node: NodeId,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Bytes that the receiver has.
    pub bytes: u64,
}

/// A node as another one sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct PeerStatus {
    /// ID of the node.
    pub id: NodeId,
    /// Region of the node.
    #[serde(default)]
    pub region: String,
    /// Address between nodes (rpc).
    #[serde(default)]
    pub rpc: String,
    /// Public address.
    #[serde(default)]
    pub http: String,
    /// True if it answered recently.
    #[serde(default)]
    pub alive: bool,
    /// Offset by which its clock is ahead.
    #[serde(default)]
    pub clock_offset_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::{NodeId, NodeStatus};

    #[test]
    fn a_status_is_read() {
        let text = r#"{"node": 12, "region": "local", "clock_ok": true, "more": 1,
            "groups": [{"group": "meta", "term": 3, "leader": null, "role": "follower",
                 "changing": true},
                {"group": "shard-0", "term": 1, "leader": 12, "role": "leader", "serving": true,
                 "last_log": 9, "applied": 8, "purged": 2, "digest": "ff", "voters": [12, 7],
                 "learners": [], "changing": false}],
            "nodes": [{"id": 7, "region": "local", "rpc": "a", "http": "b", "alive": true,
                "clock_offset_ms": -1}]}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        let led: Vec<&str> = status
            .led_groups()
            .map(|group| group.group.as_str())
            .collect();
        assert_eq!(led, ["shard-0"]);
        assert_eq!(status.group("meta").unwrap().leader, None);
        assert_eq!(
            status.group("shard-0").unwrap().leader,
            Some(NodeId("12".into()))
        );
    }
}
