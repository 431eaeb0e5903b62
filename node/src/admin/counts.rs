//! Counts with their nouns.

/// Formats a number with its noun, which ends with an s unless the number is 1.
pub(super) fn format_count(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        assert_eq!(
            [0, 1, 2, 11].map(|count| format_count(count, "account")),
            ["0 accounts", "1 account", "2 accounts", "11 accounts"]
        );
    }
}
