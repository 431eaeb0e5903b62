//! What `GET /status` of a node's operator's port says.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// The identity of a node: a new one for each data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    /// A number or a text, as whoever writes it likes.
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

/// A node, as it sees itself, its groups and the others.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Itself.
    pub node: NodeId,
    /// The region it serves.
    pub region: String,
    /// Whether its clock is near those of the others.
    pub clock_ok: bool,
    /// What its region survives, in words.
    #[serde(default)]
    pub survives: String,
    /// The Raft groups that it is a member of.
    pub groups: Vec<Group>,
    /// All nodes that it knows, itself included.
    #[serde(default)]
    pub nodes: Vec<Peer>,
    /// Snapshots on their way to it and from it, and the last ones.
    #[serde(default)]
    pub snapshots: Vec<Transfer>,
}

impl Status {
    /// A group of this node.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.group == name)
    }

    /// The groups that it leads.
    pub fn led(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.leads())
    }
}

/// One node's replica of a Raft group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// `meta`, or `shard-` and its number.
    pub group: String,
    /// The replica's term.
    pub term: u64,
    /// Who leads in this term, as far as it knows.
    pub leader: Option<NodeId>,
    /// `leader`, `follower`, `learner` or `candidate`.
    pub role: String,
    /// Whether it serves requests.
    #[serde(default)]
    pub serving: bool,
    /// Whether this node's state is damaged on its disk.
    #[serde(default)]
    pub damaged: bool,
    /// The last entry of its log.
    #[serde(default)]
    pub last_log: u64,
    /// The last entry that its state has.
    #[serde(default)]
    pub applied: u64,
    /// The last entry that is no longer in its log.
    #[serde(default)]
    pub purged: u64,
    /// Of its state, equal on all replicas at the same applied entry.
    #[serde(default)]
    pub digest: String,
    /// The members that vote.
    #[serde(default)]
    pub voters: Vec<NodeId>,
    /// The others.
    #[serde(default)]
    pub learners: Vec<NodeId>,
    /// Whether members are being changed: those that leave are needed until that is over.
    pub changing: bool,
}

impl Group {
    /// Whether this replica leads.
    pub fn leads(&self) -> bool {
        self.role == "leader"
    }

    /// Whether it is a shard, and not the metadata.
    pub fn is_shard(&self) -> bool {
        self.group.starts_with("shard-")
    }
}

/// A snapshot on its way between two nodes, or the last one.
#[derive(Clone, Debug, Deserialize)]
pub struct Transfer {
    /// Of which group.
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

/// Another node.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Who it is.
    pub id: NodeId,
    /// The region it serves.
    #[serde(default)]
    pub region: String,
    /// Its address between nodes.
    #[serde(default)]
    pub rpc: String,
    /// Its public address.
    #[serde(default)]
    pub http: String,
    /// Whether it was heard lately.
    #[serde(default)]
    pub alive: bool,
    /// How far its clock is ahead.
    #[serde(default)]
    pub clock_offset_ms: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::{NodeId, Status};

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
        let status: Status = serde_json::from_str(text).unwrap();
        let led: Vec<&str> = status.led().map(|group| group.group.as_str()).collect();
        assert_eq!(led, ["shard-0"]);
        assert_eq!(status.group("meta").unwrap().leader, None);
        assert_eq!(
            status.group("shard-0").unwrap().leader,
            Some(NodeId("12".into()))
        );
    }
}
