//! Detects typing errors in names, and finds the names that were meant.

/// Maximum length of a part of a name that counts as a code: codes may differ in one letter, as
/// `eu` and `au` do.
const MAX_CODE_CHARS: usize = 3;

/// Maximum length of a name whose misspelling is recognised, in bytes: comparing takes time.
const MAX_MISSPELT_BYTES: usize = 64;

/// Returns whether a name is probably a misspelling of another: they differ by one letter too many,
/// one too few, one that is wrong, or two that are swapped.
///
/// Names that differ in a number (`eu-west-1`, `eu-west-2`) or in a code between dashes
/// (`eu-west`, `au-west`, `zone-a`, `zone-b`) differ intentionally.
pub fn is_likely_typo(name: &str, other: &str) -> bool {
    strsim::damerau_levenshtein(name, other) == 1 && !is_intended_difference(name, other)
}

/// Returns the known name that a misspelt one is most similar to, if any is similar: up to three of
/// its letters are wrong, and no more than half of them.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_MISSPELT_BYTES {
        return None;
    }
    let max_edits = (name.len() / 2).clamp(1, 3);
    let edits = |known: &'a str| (strsim::damerau_levenshtein(known, name), known);
    let similar = known.into_iter().map(edits);
    let similar = similar.filter(|(edits, _)| *edits <= max_edits);
    similar.min().map(|(_, known)| known)
}

fn is_intended_difference(name: &str, other: &str) -> bool {
    let letters = |name: &str| {
        let letters = name.chars().filter(|it| !it.is_ascii_digit());
        letters.collect::<String>()
    };
    letters(name) == letters(other) || differs_in_code(name, other)
}

/// Returns whether all parts that differ are codes that differ in one letter.
fn differs_in_code(name: &str, other: &str) -> bool {
    let is_code = |(one, other): &(&str, &str)| {
        let replaced = one.chars().zip(other.chars()).filter(|(a, b)| a != b);
        one.len() == other.len() && one.len() <= MAX_CODE_CHARS && replaced.count() == 1
    };
    let (parts, others) = (name.split('-'), other.split('-'));
    if parts.clone().count() != others.clone().count() {
        return false;
    }
    let mut differing = parts.zip(others).filter(|(one, other)| one != other);
    differing.all(|parts| is_code(&parts))
}

#[cfg(test)]
mod tests {
    use super::{is_likely_typo, nearest_name};

    #[test]
    fn misspelt_names_have_a_nearest_one() {
        let known = ["op", "key", "value", "ttl", "expires_at", "if_match"];
        for (name, nearest) in [
            ("vlaue", Some("value")),
            ("tll", Some("ttl")),
            ("Key", Some("key")),
            ("expire_at", Some("expires_at")),
            ("expires", Some("expires_at")),
            ("ifmatch", Some("if_match")),
            ("foo", None),
            ("", None),
            ("colour", None),
        ] {
            assert_eq!(nearest_name(name, known), nearest, "{name}");
        }
        assert_eq!(nearest_name(&"x".repeat(1 << 20), known), None);
    }

    #[test]
    fn typos_are_distinguished_from_intended_differences() {
        for (name, other) in [
            ("locla", "local"),
            ("loca", "local"),
            ("locall", "local"),
            ("lokal", "local"),
            ("eu-wset-1", "eu-west-1"),
            ("eu-wes-1", "eu-west-1"),
            ("euwest-1", "eu-west-1"),
            ("ue", "eu"),
            ("eu-", "eu"),
            ("uss", "us"),
        ] {
            assert!(
                is_likely_typo(name, other) && is_likely_typo(other, name),
                "{name} {other}"
            );
        }
        for (name, other) in [
            ("eu", "eu"),
            ("eu", "us"),
            ("eu", "au"),
            ("a", "b"),
            ("eu-west-1", "eu-west-2"),
            ("eu-west-1", "eu-west-11"),
            ("eu-west", "au-west"),
            ("us-east", "us-west"),
            ("zone-a", "zone-b"),
            ("dc1", "dc2"),
            ("dc", "dc2"),
            ("here", "there-too"),
        ] {
            assert!(
                !is_likely_typo(name, other) && !is_likely_typo(other, name),
                "{name} {other}"
            );
        }
    }
}
