//! Prometheus text format (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::histogram::HistogramSnapshot;

/// Names and values of a sample's labels. Names must be valid; values may be any text.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writer of metrics. Samples of a family may be added in any order: they are grouped under one
/// `HELP` and `TYPE`, as the format demands; families are sorted by name.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, String>,
}

impl Exposition {
    /// `Content-Type` of the text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Creates an empty exposition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a counter; its name should end in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: u64) {
        let family = self.family(name, help, "counter");
        sample(family, name, "", labels, None, value);
    }

    /// Adds a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        let family = self.family(name, help, "gauge");
        sample(family, name, "", labels, None, number(value));
    }

    /// Adds a histogram; its name should end in its unit.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        histogram: &HistogramSnapshot,
    ) {
        let family = self.family(name, help, "histogram");
        for (bound, count) in &histogram.buckets {
            sample(
                family,
                name,
                "_bucket",
                labels,
                Some(&number(*bound)),
                count,
            );
        }
        sample(
            family,
            name,
            "_bucket",
            labels,
            Some("+Inf"),
            histogram.count,
        );
        sample(family, name, "_sum", labels, None, number(histogram.sum));
        sample(family, name, "_count", labels, None, histogram.count);
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.families.into_values().collect()
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> &mut String {
        self.families.entry(name).or_insert_with(|| {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
        })
    }
}

fn sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: Labels<'_>,
    bound: Option<&str>,
    value: impl Display,
) {
    text.push_str(name);
    text.push_str(suffix);
    let bound = bound.map(|bound| ("le", bound));
    let mut separator = '{';
    for (label, value) in labels.iter().copied().chain(bound) {
        text.push(separator);
        separator = ',';
        text.push_str(label);
        text.push_str("=\"");
        value
            .chars()
            .for_each(|character| push_escaped(text, character));
        text.push('"');
    }
    if separator == ',' {
        text.push('}');
    }
    // Writing to a String never fails.
    let _ = writeln!(text, " {value}");
}

fn push_escaped(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        '"' => text.push_str("\\\""),
        '\n' => text.push_str("\\n"),
        other => text.push(other),
    }
}

/// Formats a number.
fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        // Rust writes no exponents, and NaN as the format does.
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_once_and_labels_escaped() {
        let mut text = Exposition::new();
        text.counter(
            "b_total",
            "Requests \\ or\nso.",
            &[("route", "a\"b\\c\nd"), ("x", "1")],
            3,
        );
        text.gauge("a_bytes", "Memory.", &[], 1.5);
        text.counter("b_total", "Requests.", &[("route", "other")], u64::MAX);
        text.gauge("c", "Odd ones.", &[("v", "nan")], f64::NAN);
        text.gauge("c", "Odd ones.", &[("v", "inf")], f64::INFINITY);
        let expected = r#"# HELP a_bytes Memory.
# TYPE a_bytes gauge
a_bytes 1.5
# HELP b_total Requests \\ or\nso.
# TYPE b_total counter
b_total{route="a\"b\\c\nd",x="1"} 3
b_total{route="other"} 18446744073709551615
# HELP c Odd ones.
# TYPE c gauge
c{v="nan"} NaN
c{v="inf"} +Inf
"#;
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_infinity() {
        let mut text = Exposition::new();
        let snapshot = HistogramSnapshot {
            buckets: vec![(0.000_016_384, 1), (2.0, 3)],
            count: 4,
            sum: 9.5,
        };
        text.histogram("wait_seconds", "Time.", &[("shard", "3")], &snapshot);
        let expected = r#"# HELP wait_seconds Time.
# TYPE wait_seconds histogram
wait_seconds_bucket{shard="3",le="0.000016384"} 1
wait_seconds_bucket{shard="3",le="2"} 3
wait_seconds_bucket{shard="3",le="+Inf"} 4
wait_seconds_sum{shard="3"} 9.5
wait_seconds_count{shard="3"} 4
"#;
        assert_eq!(text.finish(), expected);
    }
}
