//! Advice for an operator whose node can't read its log or its state any more.
//!
//! Removing the data directory is right where other nodes hold the same data, and loses everything
//! where they don't: so the advice depends on the other nodes of the cluster.

use std::path::Path;

use cloudkv_common::process::describe_error;

use super::errors::StartError;
use crate::cluster::{Identity, NodeList};
use crate::store::{Cause, LogDataLoss, OpenError, StoreError};

/// Adds advice to an error of the start, if damaged data is the reason.
pub(super) fn with_advice(dir: &Path, error: StartError) -> StartError {
    let advise = |last_resort: &str| {
        let node_list = NodeList::read(dir);
        advice(Identity::read(dir).as_ref(), node_list, last_resort)
    };
    match error {
        StartError::Open(OpenError::Store(StoreError {
            source: Cause::LogDataLoss(lost),
            ..
        })) => StartError::DamagedLog {
            advice: advise(last_resort(&lost)),
            dir: dir.to_owned(),
            lost,
        },
        error if is_damage(&error) => StartError::DamagedData {
            dir: dir.to_owned(),
            damage: describe_error(&error),
            advice: advise(""),
        },
        error => error,
    }
}

/// Returns whether the start has failed since data in the directory is damaged.
fn is_damage(error: &StartError) -> bool {
    match error {
        StartError::Open(OpenError::Store(error)) => error.is_corruption(),
        StartError::Group { source, .. } | StartError::Recover { source, .. } => {
            StoreError::is_io_corruption(source)
        }
        _ => false,
    }
}

/// Advice by who else holds the data; `last_resort` is added for the only copy.
fn advice(identity: Option<&Identity>, node_list: Option<NodeList>, last_resort: &str) -> String {
    let (Some(identity), Some(node_list)) = (identity, node_list) else {
        return format!(
            "If other nodes of its region hold its data, of which `cloudkv-node admin status` of \
             one of them shows three voters in each group, {}. If not, it may be the only copy: {}",
            replace_advice(identity),
            preserve_advice(last_resort)
        );
    };
    let me = identity.node_id;
    let others = || node_list.nodes.iter().filter(|node| node.id != me);
    let same_region = others().filter(|node| node.region == identity.region);
    let same_region: Vec<&str> = same_region.map(|node| node.rpc.as_str()).collect();
    let other_regions = others().filter(|node| node.region != identity.region);
    let other_regions: Vec<&str> = other_regions.map(|node| node.region.as_str()).collect();
    if same_region.len() >= 2 {
        return format!(
            "Other nodes of its region hold the same data ({}): {}",
            same_region.join(", "),
            replace_advice(Some(identity))
        );
    }
    if let [one] = same_region[..] {
        return format!(
            "The other node of its region, {one}, only follows in some groups, and may lack their \
             newest writes: do not remove the data directory, and copy it before you change \
             anything. Then restore a backup of it"
        );
    }
    if !other_regions.is_empty() {
        let mut regions = other_regions;
        regions.dedup();
        return format!(
            "No other node of its region holds its data, and the other regions ({}) only what has \
             reached them: do not remove the data directory before it was copied. Then restore a \
             backup of it; without one, run `cloudkv-node admin remove-region {}` at a node of \
             another region, and start this one with an empty data directory and --join",
            regions.join(", "),
            identity.region
        );
    }
    format!(
        "No other node holds its data: {}",
        preserve_advice(last_resort)
    )
}

fn replace_advice(identity: Option<&Identity>) -> String {
    let number = identity.map_or("OLD-NUMBER".to_owned(), |it| it.node_id.to_string());
    format!(
        "remove the data directory, start the node with --join, so that it comes as a new one, and \
         run `cloudkv-node admin replace {number}` at another node"
    )
}

/// Advice for the only copy of the data.
fn preserve_advice(last_resort: &str) -> String {
    format!(
        "do not remove the data directory, and copy it before you change anything. Then restore a \
         backup of it{last_resort}"
    )
}

/// Advice for the only copy of a log that can be read up to its damaged end.
fn last_resort(lost: &LogDataLoss) -> &'static str {
    if lost.extent.is_at_end() {
        "; without one, move the file log-synced out of the directory, and the node starts without \
         the records at the damaged end, for good"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ListedNode;
    use crate::store::LossExtent;
    use crate::store::keys::GroupId;
    use crate::types::NodeId;

    fn identity() -> Identity {
        let text = r#"{"cluster_id": "c", "node_id": 7, "region": "eu", "shards": 3,
            "incarnation": 1}"#;
        serde_json::from_str(text).unwrap()
    }

    fn advice_for(others: &[(u64, &str)], extent: LossExtent) -> String {
        let mut all = vec![(7, "eu")];
        all.extend(others);
        let nodes = all.into_iter().map(|(id, region)| ListedNode {
            id: NodeId::from(id),
            region: region.into(),
            rpc: format!("host-{id}:7070"),
        });
        let node_list = NodeList {
            nodes: nodes.collect(),
        };
        let lost = LogDataLoss { extent, end: None };
        advice(Some(&identity()), Some(node_list), last_resort(&lost))
    }

    const TORN_END: LossExtent = LossExtent::TornTail { bytes: 9 };
    const REPLACE_ADVICE: &str = "remove the data directory, start";

    #[test]
    fn removal_is_advised_only_where_other_nodes_hold_the_same_data() {
        let text = advice_for(&[(8, "eu"), (9, "eu")], TORN_END);
        assert!(
            text.contains(REPLACE_ADVICE) && text.contains("admin replace 7"),
            "{text}"
        );
        assert!(text.contains("host-8:7070, host-9:7070"), "{text}");
        for others in [&[][..], &[(8, "eu")], &[(8, "us"), (9, "us")]] {
            let text = advice_for(others, TORN_END);
            assert!(text.contains("do not remove"), "{text}");
            assert!(!text.contains(REPLACE_ADVICE), "{text}");
        }
    }

    #[test]
    fn only_a_single_node_is_advised_to_start_without_the_damaged_end() {
        let advises_truncation = |others, extent| advice_for(others, extent).contains("log-synced");
        assert!(advises_truncation(&[], TORN_END));
        assert!(advises_truncation(&[], LossExtent::LastFile { bytes: 9 }));
        assert!(!advises_truncation(&[], LossExtent::OlderFile));
        assert!(!advises_truncation(&[(8, "eu")], TORN_END));
        assert!(!advises_truncation(&[(8, "us")], TORN_END));
    }

    #[test]
    fn an_unknown_cluster_gets_both_kinds_of_advice() {
        let text = advice(Some(&identity()), None, "");
        assert!(
            text.contains(REPLACE_ADVICE) && text.contains("only copy"),
            "{text}"
        );
    }

    #[test]
    fn a_group_that_meets_damage_gets_advice_and_other_errors_none() {
        let dir = tempfile::tempdir().unwrap();
        let failed = |source| {
            let group = GroupId::shard(1);
            with_advice(dir.path(), StartError::Group { group, source })
        };
        let damage = StoreError::damaged("log entry", "log/7".into(), 5);
        let text = describe_error(&failed(damage.into()));
        for part in [
            "holds damaged data: start group shard-1: read log entry: log/7 is damaged",
            "at offset 5. If other nodes",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = describe_error(&failed(std::io::Error::other("no space")));
        assert_eq!(text, "start group shard-1: no space");
    }
}
