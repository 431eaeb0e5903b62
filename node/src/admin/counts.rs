//! Counts with their nouns, and sizes of backups.

const BYTES_PER_MB: f64 = 1e6;

/// Formats a number with its noun, which ends with an s unless the number is 1.
pub(super) fn format_count(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Formats a size in megabytes, of 1,000,000 bytes each.
pub(super) fn format_megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / BYTES_PER_MB)
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

    #[test]
    fn megabytes_are_decimal() {
        assert_eq!(
            [0, 49_000, 2_500_000, 3_000_000_000].map(format_megabytes),
            ["0.0 MB", "0.0 MB", "2.5 MB", "3000.0 MB"]
        );
    }
}
