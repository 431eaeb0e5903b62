//! A checker for the Prometheus text format, enough to say that a scraper will take a page.

/// Names of the samples of a page.
///
/// # Errors
/// The first line that isn't of the format.
pub fn sample_names(page: &str) -> Result<Vec<String>, String> {
    let mut names = vec![];
    for line in page.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('#') {
            Some(comment) => check_comment(comment).ok_or_else(|| line.to_owned())?,
            None => names.push(sample_name(line).ok_or_else(|| line.to_owned())?.to_owned()),
        }
    }
    Ok(names)
}

/// `# HELP name text`, `# TYPE name kind`, or any other comment.
fn check_comment(comment: &str) -> Option<()> {
    const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];
    let mut words = comment.split_ascii_whitespace();
    match words.next() {
        Some("TYPE") => (is_name(words.next()?) && KINDS.contains(&words.next()?)).then_some(()),
        Some("HELP") => is_name(words.next()?).then_some(()),
        Some(_) | None => Some(()),
    }
}

/// `name{label="value",...} number [time]`.
fn sample_name(line: &str) -> Option<&str> {
    let name_ends = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_ends);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => after_labels(labels)?,
        None => rest,
    };
    let mut numbers = rest.split_ascii_whitespace();
    let value_ok = is_value(numbers.next()?);
    let time_ok = numbers
        .next()
        .is_none_or(|time| time.parse::<i64>().is_ok());
    (is_name(name) && value_ok && time_ok && numbers.next().is_none()).then_some(name)
}

/// What follows the labels' closing brace.
fn after_labels(mut labels: &str) -> Option<&str> {
    loop {
        if let Some(rest) = labels.strip_prefix('}') {
            return Some(rest);
        }
        let (name, rest) = labels.split_once("=\"")?;
        if !is_name(name) {
            return None;
        }
        let rest = &rest[end_of_value(rest)? + 1..];
        labels = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// The position of the quote that ends a label's value; a backslash takes the next character.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let first_ok = name
        .chars()
        .next()
        .is_some_and(|first| !first.is_ascii_digit());
    first_ok
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn is_value(value: &str) -> bool {
    matches!(value, "NaN" | "+Inf" | "-Inf") || value.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::sample_names;

    #[test]
    fn a_page_of_the_format_is_taken() {
        let page = "# HELP a_total What it counts.\n# TYPE a_total counter\n\
                    a_total{path=\"/kv\",note=\"a \\\"b\\\", c}\"} 12 1700000000\nb 1.5e-3\nc{} +Inf\n";
        assert_eq!(sample_names(page).unwrap(), ["a_total", "b", "c"]);
    }

    #[test]
    fn broken_lines_are_told() {
        for line in [
            "a",
            "a b",
            "1a 2",
            "a{b=c} 1",
            "a{b=\"c} 1",
            "# TYPE a thing",
            "a 1 2 3",
        ] {
            assert_eq!(sample_names(line), Err(line.to_owned()));
        }
    }
}
