//! Describes the metadata's voters to an operator whose change it can't take.

use crate::cluster::LocalGroups;
use crate::types::NodeId;

/// Describes the metadata's voters, which of them are alive, and what to do while they have no
/// leader.
pub(super) fn describe_metadata_voters(groups: &LocalGroups) -> String {
    let (voters, _) = groups.meta.members();
    let named = |node: &NodeId| groups.node_name(*node);
    let all: Vec<String> = voters.iter().map(named).collect();
    let alive = voters.iter().filter(|node| groups.is_alive(**node));
    let alive: Vec<String> = alive.map(named).collect();
    let voters_are = match all.len() {
        1 => "only voter is",
        _ => "voters are",
    };
    format!(
        "the metadata's {voters_are} {}; {}",
        all.join(", "),
        describe_alive(&alive, all.len())
    )
}

fn describe_alive(alive: &[String], voters: usize) -> String {
    let needed = voters / 2 + 1;
    let list = if alive.is_empty() {
        "none".to_owned()
    } else {
        alive.join(", ")
    };
    if voters == 1 && alive.is_empty() {
        "it isn't alive: start it first".to_owned()
    } else if alive.len() >= needed {
        format!("alive: {list}, enough to elect a leader: try again in some seconds")
    } else {
        format!("alive: {list}; {needed} of them are needed: start some of the others first")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_needs_patience_and_a_lost_majority_needs_nodes() {
        let alive = ["a".to_owned(), "b".to_owned()];
        let text = describe_alive(&alive, 3);
        assert!(
            text.starts_with("alive: a, b, enough") && !text.contains("start"),
            "{text}"
        );
        let text = describe_alive(&alive[..1], 3);
        assert!(text.contains("2 of them are needed"), "{text}");
        assert_eq!(describe_alive(&[], 1), "it isn't alive: start it first");
    }
}
