//! Names of several shards.

/// Formats names of shards, with consecutive ones as `first to last`.
pub(super) fn format_ranges(groups: &[&str]) -> String {
    let number = |group: &str| group.strip_prefix("shard-")?.parse::<u64>().ok();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut numbers: Vec<u64> = groups.iter().filter_map(|group| number(group)).collect();
    numbers.sort_unstable();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let format_range = |(first, last): &(u64, u64)| match last - first {
        0 => format!("shard-{first}"),
        1 => format!("shard-{first}, shard-{last}"),
        _ => format!("shard-{first} to shard-{last}"),
    };
    ranges
        .iter()
        .map(format_range)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_shards_are_a_range() {
        let groups = [
            "shard-9", "shard-0", "shard-4", "shard-5", "shard-1", "shard-2",
        ];
        assert_eq!(
            format_ranges(&groups),
            "shard-0 to shard-2, shard-4, shard-5, shard-9"
        );
    }
}
