//! Judges the answer to a batch of puts.

use serde::Deserialize;

/// Expected content of a line of an answer.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    key: &'a str,
    status: u16,
}

/// Returns whether each of `count` puts, of the keys from `first_key` on, has a line with its key
/// and status 200, in their order.
pub(super) fn are_all_written(body: &[u8], first_key: u64, count: usize) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let mut lines = text.lines();
    let is_written = |key: u64| {
        let line = lines
            .next()
            .and_then(|line| serde_json::from_str::<Line<'_>>(line).ok());
        line.is_some_and(|line| line.status == 200 && number_of(line.key) == Some(key))
    };
    (first_key..).take(count).all(is_written) && lines.next().is_none()
}

fn number_of(key: &str) -> Option<u64> {
    key.strip_prefix('k')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_put_has_a_line_with_its_key_and_status_200() {
        let line = |key: u64, status: u16| {
            format!("{{\"key\":\"k{key:07}\",\"status\":{status},\"version\":\"1-1\"}}\n")
        };
        let judge = |answer: &str| are_all_written(answer.as_bytes(), 12, 2);
        let (first, second) = (line(12, 200), line(13, 200));
        assert!(judge(&format!("{first}{second}")));
        assert!(!judge(&format!("{first}{}", line(13, 503))), "failed");
        assert!(!judge(&format!("{second}{first}")), "another order");
        assert!(!judge(&first), "too few");
        assert!(!judge(&format!("{first}{second}{second}")), "too many");
        assert!(!judge("nonsense"));
    }
}
