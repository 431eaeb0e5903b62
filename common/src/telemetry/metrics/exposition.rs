//! Text of the metrics, in the OpenMetrics format (version 1.0.0).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::histogram::HistogramSnapshot;

/// Names and values of a sample's labels. Names must be valid; values may be any text.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// No sample has exemplars.
const NO_EXEMPLAR: Option<&Exemplar<Vec<(String, String)>, u64>> = None;

/// Writer of metrics. Samples of a family may be added in any order: they are grouped, as the
/// format demands; families are sorted by name.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Vec<(String, String)>, SampleValue)>,
}

#[derive(Debug)]
enum SampleValue {
    Counter(u64),
    Gauge(f64),
    Histogram(HistogramSnapshot),
}

impl Exposition {
    /// `Content-Type` of the text.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Creates an empty exposition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a counter; its name must end in `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: u64,
    ) {
        // The format names the family without the ending, and its samples with it.
        let family = name.strip_suffix("_total").unwrap_or(name);
        self.add(family, help, labels, SampleValue::Counter(value));
    }

    /// Adds a gauge.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        self.add(name, help, labels, SampleValue::Gauge(value));
    }

    /// Adds a histogram; its name should end in its unit.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        histogram: HistogramSnapshot,
    ) {
        self.add(name, help, labels, SampleValue::Histogram(histogram));
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        let (mut text, mut registry) = (String::new(), Registry::default());
        registry.register_collector(Box::new(self));
        if let Err(error) = text::encode(&mut text, &registry) {
            // Writing to a String never fails, nor do the values.
            tracing::error!(%error, "writing the metrics failed");
        }
        text
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: SampleValue,
    ) {
        let family = self.families.entry(name).or_insert_with(|| Family {
            help,
            kind: value.kind(),
            samples: Vec::new(),
        });
        // In this format a gauge can't be named as a counter without its ending.
        let kind = discriminant(&value);
        let mut others = family.samples.iter().map(|(_, other)| discriminant(other));
        debug_assert!(
            others.next().is_none_or(|other| other == kind),
            "{name} names metrics of two kinds"
        );
        let labels = labels.iter().copied();
        let labels = labels.map(|(name, value)| (name.to_owned(), escape(value).into_owned()));
        family.samples.push((labels.collect(), value));
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in &self.families {
            let mut metric = encoder.encode_descriptor(name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    value.encode(&mut metric)?;
                } else {
                    value.encode(&mut metric.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl SampleValue {
    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Histogram(_) => MetricType::Histogram,
        }
    }

    fn encode(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => metric.encode_counter(value, NO_EXEMPLAR),
            Self::Gauge(value) => match whole_number(*value) {
                Some(whole) => metric.encode_gauge(&whole),
                None => metric.encode_gauge(value),
            },
            Self::Histogram(histogram) => metric.encode_histogram::<Vec<(String, String)>>(
                histogram.sum,
                histogram.count,
                &histogram.counts_by_bound(),
                None,
            ),
        }
    }
}

/// Returns a whole number as such: it is written without a fraction then.
fn whole_number(value: f64) -> Option<i64> {
    /// Beyond it, not all whole numbers are different values.
    const MAX: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    (value.fract() == 0.0 && value.abs() < MAX).then_some(value as i64)
}

/// Escapes a label's value, which the encoder writes as it is.
fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_once_and_labels_escaped() {
        let mut text = Exposition::new();
        text.counter(
            "b_total",
            "Requests",
            &[("route", "a\"b\\c\nd"), ("x", "1")],
            3,
        );
        text.gauge("a_bytes", "Memory", &[], 1.5);
        text.counter("b_total", "Requests", &[("route", "other")], u64::MAX);
        text.gauge("c", "Odd ones", &[("v", "nan")], f64::NAN);
        text.gauge("c", "Odd ones", &[("v", "inf")], f64::INFINITY);
        text.gauge("c", "Odd ones", &[("v", "whole")], -3.0);
        let expected = r#"# HELP a_bytes Memory
# TYPE a_bytes gauge
a_bytes 1.5
# HELP b Requests
# TYPE b counter
b_total{route="a\"b\\c\nd",x="1"} 3
b_total{route="other"} 18446744073709551615
# HELP c Odd ones
# TYPE c gauge
c{v="nan"} NaN
c{v="inf"} inf
c{v="whole"} -3
# EOF
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
        text.histogram("wait_seconds", "Time", &[("shard", "3")], snapshot);
        let expected = r#"# HELP wait_seconds Time
# TYPE wait_seconds histogram
wait_seconds_sum{shard="3"} 9.5
wait_seconds_count{shard="3"} 4
wait_seconds_bucket{le="0.000016384",shard="3"} 1
wait_seconds_bucket{le="2.0",shard="3"} 3
wait_seconds_bucket{le="+Inf",shard="3"} 4
# EOF
"#;
        assert_eq!(text.finish(), expected);
    }
}
