//! Targets and verdicts; tables; output files.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Median; of an even number of values the lower one. Zero without values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or_default()
}

/// Bound of a value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// The value must be this or more.
    AtLeast(f64),
    /// The value must be this or less.
    AtMost(f64),
}

/// A value that is compared with a target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Name of the value.
    pub what: String,
    /// Measured value; `None` if it couldn't be measured.
    pub value: Option<f64>,
    /// Unit of the value.
    pub unit: &'static str,
    /// Bound of the value.
    pub target: Target,
}

impl Check {
    /// Creates a check of a value against its target.
    pub(crate) fn new(
        what: impl Into<String>,
        value: Option<f64>,
        unit: &'static str,
        target: Target,
    ) -> Self {
        Self {
            what: what.into(),
            value: value.filter(|v| v.is_finite()),
            unit,
            target,
        }
    }

    /// Returns whether the target is met; `None` without a value.
    pub(crate) fn passes(&self) -> Option<bool> {
        self.value.map(|value| match self.target {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        })
    }

    fn row(&self) -> Vec<String> {
        let (sign, limit) = match self.target {
            Target::AtLeast(least) => ("≥", least),
            Target::AtMost(most) => ("≤", most),
        };
        let verdict = match self.passes() {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "not measured",
        };
        let value = self
            .value
            .map_or("-".to_owned(), |value| format!("{value:.2} {}", self.unit));
        vec![
            self.what.clone(),
            value,
            format!("{sign} {limit} {}", self.unit),
            verdict.to_owned(),
        ]
    }
}

/// A table that is readable as plain text, and valid Markdown.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates an empty table with its header.
    pub(crate) fn new(title: &str, head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self {
            title: title.to_owned(),
            rows: vec![head],
        }
    }

    /// Creates the table of verdicts.
    pub(crate) fn of_checks(checks: &[Check]) -> Self {
        let mut table = Self::new("Targets", &["what", "measured", "target", "verdict"]);
        checks.iter().for_each(|check| table.add(check.row()));
        table
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Renders the table: first column aligned to the left, the others to the right.
    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = format!("### {}\n\n", self.title);
        for (index, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let (left, right) = if column == 0 {
                    ("", &*pad)
                } else {
                    (&*pad, "")
                };
                // Writing to a String can't fail.
                let _ = write!(text, "| {left}{cell}{right} ");
            }
            text.push_str("|\n");
            if index == 0 {
                let rule = |(column, width): (usize, &usize)| match column {
                    0 => format!("| {} ", "-".repeat(*width)),
                    _ => format!("| {}: ", "-".repeat(width.saturating_sub(1))),
                };
                text.extend(widths.iter().enumerate().map(rule));
                text.push_str("|\n");
            }
        }
        text
    }
}

/// Renders tables and notes as Markdown, with empty lines between them.
pub(crate) fn render(tables: &[Table], notes: &[String]) -> String {
    let tables: Vec<String> = tables.iter().map(Table::render).collect();
    let mut text = tables.join("\n");
    for note in notes {
        // Writing to a String can't fail.
        let _ = writeln!(text, "\n{note}");
    }
    text
}

/// Prints the Markdown and writes it next to the JSON at `out`.
pub(crate) fn publish(out: &Path, json: &impl Serialize, markdown: &str) -> Result<()> {
    println!("{markdown}");
    let table = out.with_extension("md");
    std::fs::write(&table, markdown).with_context(|| format!("write {}", table.display()))?;
    let json = serde_json::to_vec_pretty(json).context("encode results")?;
    std::fs::write(out, json).with_context(|| format!("write {}", out.display()))?;
    println!("written: {} and {}", out.display(), table.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [2.0, 1.0]), 1.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn checks_judge_both_ways() {
        let check = |value, target| Check::new("x", value, "", target).passes();
        assert_eq!(check(Some(0.8), Target::AtLeast(0.8)), Some(true));
        assert_eq!(check(Some(0.7), Target::AtLeast(0.8)), Some(false));
        assert_eq!(check(Some(5.1), Target::AtMost(5.0)), Some(false));
        assert_eq!(check(None, Target::AtMost(5.0)), None);
        assert_eq!(check(Some(f64::NAN), Target::AtMost(5.0)), None);
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new("T", &["a", "number"]);
        table.add(vec!["first".to_owned(), "1".to_owned()]);
        let expected = "### T\n\n| a     | number |\n| ----- | -----: |\n| first |      1 |\n";
        assert_eq!(table.render(), expected);
    }
}
