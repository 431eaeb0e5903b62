//! Pages in the Prometheus text format: a checker, strict enough to show that a scraper accepts a
//! page, and sums of samples.

/// Returns the names of a page's samples.
///
/// # Errors
/// Returns the first line that violates the format.
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

/// Returns the sum of a metric's samples with this label, as in `class="put"`; 0 if there are none.
/// An empty label is that of all samples.
pub fn sum_of_samples(page: &str, name: &str, label: &str) -> f64 {
    let samples = page.lines().filter_map(|line| line.strip_prefix(name));
    let samples = samples.filter(|line| line.starts_with('{') && line.contains(label));
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

/// Checks `# HELP name text`, `# TYPE name kind`, or any other comment.
fn check_comment(comment: &str) -> Option<()> {
    const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];
    let mut words = comment.split_ascii_whitespace();
    match words.next() {
        Some("TYPE") => (is_name(words.next()?) && KINDS.contains(&words.next()?)).then_some(()),
        Some("HELP") => is_name(words.next()?).then_some(()),
        Some(_) | None => Some(()),
    }
}

/// Returns the name of `name{label="value",...} number [time]`.
fn sample_name(line: &str) -> Option<&str> {
    let name_ends = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_ends);
    let rest = match rest.strip_prefix('{') {
        Some(labels) => skip_labels(labels)?,
        None => rest,
    };
    let mut numbers = rest.split_ascii_whitespace();
    let value_ok = is_value(numbers.next()?);
    let time_ok = numbers
        .next()
        .is_none_or(|time| time.parse::<i64>().is_ok());
    (is_name(name) && value_ok && time_ok && numbers.next().is_none()).then_some(name)
}

/// Returns the text after the labels' closing brace.
fn skip_labels(mut labels: &str) -> Option<&str> {
    loop {
        if let Some(rest) = labels.strip_prefix('}') {
            return Some(rest);
        }
        let (name, rest) = labels.split_once("=\"")?;
        if !is_name(name) {
            return None;
        }
        let rest = &rest[value_end(rest)? + 1..];
        labels = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// Returns the position of the quote that ends a label's value; a backslash escapes the next
/// character.
fn value_end(text: &str) -> Option<usize> {
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
    use super::{sample_names, sum_of_samples};

    #[test]
    fn samples_of_one_metric_and_label_are_added() {
        let page = "a{b=\"x\",c=\"1\"} 1\na{b=\"x\",c=\"2\"} 2\na{b=\"y\"} 4\n\
                    a_total{b=\"x\"} 8\n";
        assert_eq!(sum_of_samples(page, "a", "b=\"x\""), 3.0);
        assert_eq!(sum_of_samples(page, "a", ""), 7.0);
        assert_eq!(sum_of_samples(page, "c", ""), 0.0);
    }

    #[test]
    fn a_valid_page_is_accepted() {
        let page = "# HELP a_total What it counts.\n# TYPE a_total counter\n\
                    a_total{path=\"/kv\",note=\"a \\\"b\\\", c}\"} 12 1700000000\n\
                    b 1.5e-3\nc{} +Inf\n";
        assert_eq!(sample_names(page).unwrap(), ["a_total", "b", "c"]);
    }

    #[test]
    fn invalid_lines_are_reported() {
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
