//! Tables, units and line wrapping for a terminal.

use crate::admin::counts::format_count;

/// Width of a terminal that all output fits without `--verbose`, in columns.
pub(super) const TERMINAL_COLUMNS: usize = 100;
/// Maximum width of a cell, in columns.
const MAX_CELL_COLUMNS: usize = 40;

/// Formats a size with its unit.
pub(super) fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{} {}", format_rounded(size), UNITS[unit])
}

/// Formats a duration in milliseconds with its unit.
pub(super) fn format_millis(millis: f64) -> String {
    match millis {
        ms if ms < 0.01 => "0 ms".to_owned(),
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{} ms", format_rounded(ms)),
        ms if ms < 120_000.0 => format!("{} s", format_rounded(ms / 1e3)),
        ms if ms < 7_200_000.0 => format!("{:.0} min", ms / 60e3),
        ms if ms < 172_800_000.0 => format!("{:.0} h", ms / 3600e3),
        ms => format!("{:.0} days", ms / 86_400e3),
    }
}

/// Formats how long ago something happened, in seconds.
pub(super) fn format_seconds_ago(seconds: u64) -> String {
    match seconds {
        0 => "just now".to_owned(),
        _ => format!("{} ago", format_millis(seconds as f64 * 1e3)),
    }
}

/// Formats the whole days until a certificate expires: 0 also stands for one that has expired.
pub(super) fn format_days_left(days: u64) -> String {
    match days {
        0 => "within a day, if it hasn't yet".to_owned(),
        _ => format!("in {}", format_count(days, "day")),
    }
}

/// Formats an offset in milliseconds with its sign and its unit.
pub(super) fn format_offset(millis: f64) -> String {
    let size = format_millis(millis.abs());
    match size.as_str() {
        "0 ms" => size,
        _ if millis < 0.0 => format!("-{size}"),
        _ => format!("+{size}"),
    }
}

/// Formats a number, with one decimal if it is small.
fn format_rounded(number: f64) -> String {
    if number < 9.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

/// Formats rows below a line of titles, in columns. Empty columns are left out, and very wide cells
/// are cut off unless `may_be_wide`.
pub(super) fn format_table(
    titles: &[&str],
    rows: &[Vec<String>],
    may_be_wide: bool,
) -> Vec<String> {
    let cut = |cell: &str| {
        if may_be_wide || cell.chars().count() <= MAX_CELL_COLUMNS {
            return cell.to_owned();
        }
        let start: String = cell.chars().take(MAX_CELL_COLUMNS - 1).collect();
        format!("{start}…")
    };
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let body = rows.iter();
    let body = body.map(|row| row.iter().map(|cell| cut(cell)).collect());
    let all: Vec<Vec<String>> = std::iter::once(titles).chain(body).collect();
    let width = |column: usize| {
        let cells = all.iter().skip(1).filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let title = all[0].get(column).map_or(0, |title| title.chars().count());
        if widest == 0 { 0 } else { widest.max(title) }
    };
    let widths: Vec<usize> = (0..all[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

/// Wraps a line between words, and indents the following lines by `indent` columns. A command,
/// which is in backquotes, isn't broken.
pub(super) fn wrap_line(line: &str, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut last = String::new();
    for word in words(line) {
        if last.trim().is_empty() {
            last.push_str(&word);
        } else if last.chars().count() + 1 + word.chars().count() <= TERMINAL_COLUMNS {
            last.push(' ');
            last.push_str(&word);
        } else {
            lines.push(std::mem::replace(
                &mut last,
                format!("{:indent$}{word}", ""),
            ));
        }
    }
    lines.push(last);
    lines
}

/// Splits a line into words, of which each text in backquotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for part in line.split_whitespace() {
        match words.last_mut() {
            Some(word) if is_quoted => {
                word.push(' ');
                word.push_str(part);
            }
            Some(_) | None => words.push(part.to_owned()),
        }
        is_quoted ^= part.matches('`').count() % 2 == 1;
    }
    words
}
