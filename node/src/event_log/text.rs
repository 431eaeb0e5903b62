//! Names and times in events.

use std::time::Duration;

/// Maximum number of names in an event; the rest is only counted.
const MAX_LISTED_NAMES: usize = 8;

/// Lists the first names, and the number of the others.
pub(super) fn list_names(all: &[impl ToString]) -> String {
    let named: Vec<String> = all
        .iter()
        .take(MAX_LISTED_NAMES)
        .map(ToString::to_string)
        .collect();
    let named = named.join(", ");
    match all.len().saturating_sub(MAX_LISTED_NAMES) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Formats a duration in seconds.
pub(crate) fn format_seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::GroupId;

    #[test]
    fn an_event_lists_some_names_and_counts_the_rest() {
        let groups = |count| (0..count).map(GroupId::shard).collect::<Vec<_>>();
        assert_eq!(list_names(&groups(2)), "shard-0, shard-1");
        assert!(list_names(&groups(64)).ends_with("shard-7 and 56 more"));
    }
}
