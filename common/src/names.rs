//! Names that people type.

/// Parts of a name up to this length are codes, which may differ in one letter: `eu` and `au`.
const CODE: usize = 3;

/// Whether a name was probably meant to be another one: they differ by a letter too many, one too
/// few, one that is wrong, or two that are swapped.
///
/// Names that are numbered (`eu-west-1`, `eu-west-2`) or told apart by a code between dashes
/// (`eu-west`, `au-west`, `zone-a`, `zone-b`) differ like that on purpose.
pub fn is_slip(name: &str, other: &str) -> bool {
    strsim::damerau_levenshtein(name, other) == 1 && !differ_on_purpose(name, other)
}

fn differ_on_purpose(name: &str, other: &str) -> bool {
    let letters = |name: &str| {
        let letters = name.chars().filter(|it| !it.is_ascii_digit());
        letters.collect::<String>()
    };
    letters(name) == letters(other) || has_another_code(name, other)
}

/// Whether they differ in one letter of a short part.
fn has_another_code(name: &str, other: &str) -> bool {
    let is_code = |(one, other): &(&str, &str)| {
        let replaced = one.chars().zip(other.chars()).filter(|(a, b)| a != b);
        one.len() == other.len() && one.len() <= CODE && replaced.count() == 1
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
    use super::is_slip;

    #[test]
    fn slips_are_told_from_names_that_differ_on_purpose() {
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
                is_slip(name, other) && is_slip(other, name),
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
                !is_slip(name, other) && !is_slip(other, name),
                "{name} {other}"
            );
        }
    }
}
